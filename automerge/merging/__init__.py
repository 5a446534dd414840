"""From a recipe to a merged model: in place in a live one, or on disk."""

from automerge.merging.memory import (
    MemoryPlan,
    Need,
    estimate,
    free_device_bytes,
    free_host_bytes,
    plan_free_memory,
    plan_memory,
    plan_spread,
)
from automerge.merging.resident import MergeReport, ResidentEngine
from automerge.merging.spread import spread
from automerge.merging.streaming import merge_to_folder
from automerge.merging.tensor import InvalidMerge

__all__ = [
    "InvalidMerge",
    "MemoryPlan",
    "MergeReport",
    "Need",
    "ResidentEngine",
    "estimate",
    "free_device_bytes",
    "free_host_bytes",
    "merge_to_folder",
    "plan_free_memory",
    "plan_memory",
    "plan_spread",
    "spread",
]
