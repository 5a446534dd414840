"""What the test scores of a study will not be able to say, known before anything is measured."""

from __future__ import annotations

import math

from automerge.estimation import Difference, smallest_detectable_difference
from automerge.estimation.intervals import normal_quantile
from automerge.evaluation.lm_eval.fewshot import fewshot_warnings
from automerge.evaluation.lm_eval.metrics import BINARY_METRICS
from automerge.evaluation.lm_eval.tasks import TaskSet
from automerge.evaluation.split import Split
from automerge.public_benchmarks import benchmark

FLIPPING = 0.2
"""The share of items on which a merge and its best parent differ, as far as one can tell before."""

WANTED = 0.05
"""A test that cannot confirm this difference gets a warning."""


def claim_warnings(task_set: TaskSet, split: Split) -> list[str]:
    """One line each: benchmarks among the objectives, too few test items, examples from items."""
    return [
        *_benchmark_warnings(task_set),
        *_power_warnings(task_set, split),
        *fewshot_warnings(task_set),
    ]


def _benchmark_warnings(task_set: TaskSet) -> list[str]:
    leaves = (leaf for leaves in task_set.members.values() for leaf in leaves)
    names = [*(objective.task for objective in task_set.objectives), *leaves]
    found = dict.fromkeys(name for name in map(benchmark, names) if name is not None)
    if not found:
        return []
    return [
        f"this search optimises for {', '.join(found)}: the scores of its models there no longer "
        "measure general ability; report benchmarks that were not searched with"
    ]


def _power_warnings(task_set: TaskSet, split: Split) -> list[str]:
    """One line on the objectives whose test items confirm large differences only."""
    test = split.parts["test"]
    small = []
    for objective in task_set.objectives:
        n = sum(len(test[leaf]) for leaf in task_set.members[objective.name])
        if objective.metric in BINARY_METRICS and n and confirmable_difference(n) > WANTED:
            points = f"{100 * confirmable_difference(n):.1f} points on {objective.name}"
            small.append(f"{points} ({n} items)")
    if not small:
        return []
    return [
        f"the sealed test confirms differences from about {', '.join(small)}; "
        f"{100 * WANTED:g} points take {items_to_confirm(WANTED)} items (paired, "
        f"{100 * FLIPPING:g} % of items changing, 80 % power)"
    ]


def confirmable_difference(n: int) -> float:
    """The smallest true difference of two models that `n` paired 0/1 items show, with 80 % power.

    `FLIPPING` of the items are taken to be answered otherwise, so that an item's difference has a
    variance of that (Miller 2024, arXiv:2411.00640, section 5).
    """
    half = normal_quantile(0.95) * math.sqrt(FLIPPING / n)
    return smallest_detectable_difference(Difference(0.0, -half, half, half, n))


def items_to_confirm(difference: float) -> int:
    """How many items it takes for a `confirmable_difference`."""
    return math.ceil((confirmable_difference(1) / difference) ** 2)
