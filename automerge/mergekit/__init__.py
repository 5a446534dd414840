"""mergekit's YAML, in and out: the six methods whose weights we give."""

from automerge.mergekit.read import Imported, is_mergekit, parse_mergekit
from automerge.mergekit.write import MergekitExport, to_mergekit

__all__ = ["Imported", "MergekitExport", "is_mergekit", "parse_mergekit", "to_mergekit"]
