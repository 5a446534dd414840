"""What lm-eval's metrics returned for each item → item scores of an objective."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from automerge.evaluation.guards import InvalidOutput, MetricError
from automerge.evaluation.lm_eval.requests import Item
from automerge.objective import MAX_LOG_PERPLEXITY, ItemScores, Objective


def item_scores(
    objective: Objective, judged: Iterable[tuple[Item, Mapping[str, Any]]]
) -> ItemScores:
    """Read an objective's metric off what lm-eval's `process_results` returned for each item.

    Raises:
        MetricError: the metric is missing, or not a finite number.
    """
    items: list[Item] = []
    values: list[float] = []
    weights: list[float] = []
    weighted = objective.aggregation in ("weighted_perplexity", "bits_per_byte")
    for item, metrics in judged:
        if objective.metric not in metrics:
            raise MetricError(
                f"task {item[0]!r} returned no {objective.metric!r} for item {item[1]}; "
                f"it returned {', '.join(map(repr, metrics))}"
            )
        value = metrics[objective.metric]
        number, weight = value if weighted else (value, 1.0)
        items.append(item)
        values.append(_number(number, objective, item))
        weights.append(_number(weight, objective, item))
    return ItemScores(tuple(items), tuple(values), tuple(weights) if weighted else None)


def _number(value: Any, objective: Objective, item: Item) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or isinstance(value, str):
        raise MetricError(
            f"{objective.metric!r} of item {item[1]} in task {item[0]!r} is {value!r}; "
            "expected a finite number"
        )
    return number


def check_perplexity(objective: Objective, scores: ItemScores) -> None:
    """Refuse perplexities beyond what a working model has; floats would overflow.

    Raises:
        InvalidOutput: naming the task.
    """
    if objective.aggregation not in ("perplexity", "weighted_perplexity") or not scores.values:
        return
    weight = sum(scores.weights) if scores.weights is not None else len(scores.values)
    logarithm = -math.fsum(scores.values) / weight if weight else 0.0
    if logarithm > MAX_LOG_PERPLEXITY:
        raise InvalidOutput(
            f"{objective.metric} of task {objective.task!r} is e^{logarithm:.0f}; "
            "the merged weights are broken"
        )
