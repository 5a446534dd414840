"""mergekit's YAML, in and out."""

from automerge.mergekit.read import Imported, is_mergekit, parse_mergekit
from automerge.mergekit.write import MergekitExport, mergekit_text, to_mergekit

__all__ = [
    "Imported",
    "MergekitExport",
    "is_mergekit",
    "mergekit_text",
    "parse_mergekit",
    "to_mergekit",
]
