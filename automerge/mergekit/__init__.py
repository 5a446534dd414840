"""Read and write mergekit's YAML, and read mergekit-evolve's."""

from automerge.mergekit.evolve import Evolution, is_evolve, parse_evolve
from automerge.mergekit.read import Imported, is_mergekit, parse_mergekit
from automerge.mergekit.write import MergekitExport, mergekit_text, to_mergekit

__all__ = [
    "Evolution",
    "Imported",
    "MergekitExport",
    "is_evolve",
    "is_mergekit",
    "mergekit_text",
    "parse_evolve",
    "parse_mergekit",
    "to_mergekit",
]
