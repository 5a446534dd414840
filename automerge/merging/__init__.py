"""From a recipe to a merged model: in place in a live one, or on disk."""

from automerge.merging.resident import MergeReport, ResidentEngine
from automerge.merging.streaming import merge_to_folder
from automerge.merging.tensor import InvalidMerge

__all__ = ["InvalidMerge", "MergeReport", "ResidentEngine", "merge_to_folder"]
