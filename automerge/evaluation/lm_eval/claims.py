"""What a study's test scores will not be able to show, known before anything is measured."""

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
"""The share of items on which a merge and its best parent are assumed to differ."""

WANTED = 0.05
"""A test that cannot confirm this difference gets a warning."""


def claim_warnings(task_set: TaskSet, split: Split) -> list[str]:
    """Warn of benchmarks among the objectives, too few test items, and examples from items."""
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
    """Warn of objectives whose test items can confirm only large differences, in one line."""
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
        "the sealed test can confirm only differences of about "
        f"{', '.join(small)} or more; {100 * WANTED:g} points would take "
        f"{items_to_confirm(WANTED)} items (paired, {100 * FLIPPING:g} % of items changing, "
        "80 % power)"
    ]


def confirmable_difference(n: int) -> float:
    """Return the smallest true difference that `n` paired 0/1 items show with 80 % power.

    The two models are assumed to differ on the share `FLIPPING` of the items, which is then the
    variance of an item's difference (Miller 2024, arXiv:2411.00640, section 5).
    """
    half = normal_quantile(0.95) * math.sqrt(FLIPPING / n)
    return smallest_detectable_difference(Difference(0.0, -half, half, half, n))


def items_to_confirm(difference: float) -> int:
    """Return how many items a `confirmable_difference` takes."""
    return math.ceil((confirmable_difference(1) / difference) ** 2)
