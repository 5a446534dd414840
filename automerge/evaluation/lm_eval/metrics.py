"""Resolve the metric of an objective against the tasks it is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from automerge.errors import nearest
from automerge.objective import AGGREGATIONS, Aggregation, Direction, Objective

if TYPE_CHECKING:
    from lm_eval.api.filter import FilterEnsemble
    from lm_eval.api.group import Group
    from lm_eval.api.task import Task

    from automerge.evaluation.lm_eval.tasks import TaskSpec

BINARY_METRICS = frozenset(
    {
        "acc",
        "acc_bytes",
        "acc_mutual_info",
        "acc_norm",
        "acc_norm_bytes",
        "contains",
        "em",
        "exact",
        "exact_match",
        "prompt_level_loose_acc",
        "prompt_level_strict_acc",
    }
)
"""lm-eval's metrics that score an item as 0 or 1."""


OUTPUT_TOKENS = "output_tokens"
"""Our own metric for tasks that generate: how many tokens an answer has."""
UNFILTERED = "unfiltered"
"""Stands for a filter if the answer is judged as it was generated."""


def resolve(
    spec: TaskSpec, leaves: Sequence[Task], name: str, group: Group | None = None
) -> tuple[Objective | None, list[tuple[str, str]]]:
    """Return the objective that a spec means, or its faults as (field, message) pairs.

    `group` is what the spec names, if that is a group.
    """
    found: list[tuple[str, str]] = []
    metric, _, wanted_filter = (spec.metric or "").partition(",")
    if metric == OUTPUT_TOKENS and all(counts_tokens(leaf) for leaf in leaves):
        shorter = spec.direction or "minimize"
        return Objective(name, spec.task, OUTPUT_TOKENS, UNFILTERED, shorter, "mean", spec.goal), []
    metric = metric or next(iter(leaves[0].aggregation()), "")
    filter_name = wanted_filter or filter_names(leaves[0])[0]
    for leaf in leaves:
        available = [
            f"{m},{f}" if len(filter_names(leaf)) > 1 else m
            for m in leaf.aggregation()
            for f in filter_names(leaf)
        ]
        if metric not in leaf.aggregation():
            hint = nearest(metric, list(leaf.aggregation()))
            found.append(
                (
                    "metric",
                    f"task {leaf.task_name!r} has no metric {metric!r}{hint} "
                    f"(it has {', '.join(available)})",
                )
            )
        elif filter_name not in filter_names(leaf):
            found.append(
                (
                    "metric",
                    f"task {leaf.task_name!r} has no filter {filter_name!r}"
                    f"{nearest(filter_name, filter_names(leaf))} (it has {', '.join(available)})",
                )
            )
    if found:
        return None, found
    aggregation = _common([_aggregation(leaf, metric) for leaf in leaves])
    if aggregation is None:
        found.append(
            (
                "metric",
                f"metric {metric!r} of task {spec.task!r} is not an aggregate over items that "
                f"automerge can estimate; expected one of {', '.join(AGGREGATIONS)}, got "
                f"{', '.join(sorted({_function_name(leaf, metric) for leaf in leaves}))}; "
                "choose another metric of the task",
            )
        )
    by_size = _weighted_by_size(group if len(leaves) > 1 else None, metric, filter_name)
    if aggregation is not None and aggregation != "mean" and by_size is not None:
        found.append(
            (
                "metric",
                f"group {spec.task!r} averages {metric!r} over its tasks, where it is not a mean "
                f"of item scores ({aggregation}); name its tasks as objectives, or choose a metric "
                "that is a mean",
            )
        )
    elif aggregation == "mean" and by_size is False:
        aggregation = "mean_of_means"
    higher = _common([leaf.higher_is_better().get(metric) for leaf in leaves])
    direction: Direction = spec.direction or ("maximize" if higher else "minimize")
    if higher is None and spec.direction is None:
        found.append(
            (
                "direction",
                f"task {spec.task!r} does not say whether more {metric!r} is better; "
                "set direction: maximize or minimize",
            )
        )
    if found or aggregation is None:
        return None, found
    return Objective(name, spec.task, metric, filter_name, direction, aggregation, spec.goal), []


def _weighted_by_size(group: Group | None, metric: str, filter_name: str) -> bool | None:
    """Return whether a group's tasks count by their numbers of items; None without such a value.

    As in `Group.aggregate`, over all leaf tasks, whatever groups within it say; the last entry
    wins.
    """
    found = None
    for entry in (group and group.aggregate_metric_list) or ():
        if entry.metric == metric and filter_name in (entry.filter_list or [filter_name]):
            found = bool(entry.weight_by_size)
    return found


def counts_tokens(task: Task) -> bool:
    """Return whether a task's `output_tokens` is ours: it generates and has no such metric."""
    return task.OUTPUT_TYPE == "generate_until" and OUTPUT_TOKENS not in task.aggregation()


def filter_names(task: Task) -> list[str]:
    """Return the names of a task's filter pipelines, in lm-eval's order."""
    return [ensemble.name for ensemble in task._filters]


def filter_ensemble(task: Task, name: str) -> FilterEnsemble:
    """Return a task's filter pipeline by its name."""
    return next(ensemble for ensemble in task._filters if ensemble.name == name)


def fallbacks(task: Task, name: str) -> list[Any]:
    """Return what a pipeline gives if it finds nothing in an answer, as lm-eval's `regex` does."""
    filters = [make() for make in filter_ensemble(task, name).filters]
    return [found.fallback for found in filters if getattr(found, "fallback", None) is not None]


def _aggregation(task: Task, metric: str) -> Aggregation | None:
    from lm_eval.api.registry import get_aggregation

    function = task.aggregation()[metric]
    if function is np.mean:  # as tasks with their own classes say it
        return "mean"
    return next((name for name in AGGREGATIONS if get_aggregation(name) is function), None)


def _function_name(task: Task, metric: str) -> str:
    function = task.aggregation()[metric]
    return str(getattr(function, "__name__", function))


def _common(values: Sequence[Any]) -> Any:
    """Return the value that all share, else None."""
    return values[0] if all(value == values[0] for value in values) else None
