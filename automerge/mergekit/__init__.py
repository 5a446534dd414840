"""Read and write mergekit's YAML, and read mergekit-evolve's."""

from automerge.mergekit.evolve import Evolution, is_evolve, parse_evolve
from automerge.mergekit.moe import Mixture, is_moe, parse_moe
from automerge.mergekit.read import Imported, is_mergekit, parse_mergekit
from automerge.mergekit.write import MergekitExport, mergekit_text, to_mergekit

__all__ = [
    "Evolution",
    "Imported",
    "MergekitExport",
    "Mixture",
    "is_evolve",
    "is_mergekit",
    "is_moe",
    "mergekit_text",
    "parse_evolve",
    "parse_mergekit",
    "parse_moe",
    "to_mergekit",
]
