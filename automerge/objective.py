"""Objectives: what is measured, which direction is better, and how item scores become a value."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from automerge.arrays import Floats

Direction = Literal["maximize", "minimize"]
Aggregation = Literal[
    "mean",
    "mean_of_means",
    "min_of_means",
    "max_of_means",
    "perplexity",
    "weighted_perplexity",
    "bits_per_byte",
    "ratio",
    "exact",
]
AGGREGATIONS: tuple[Aggregation, ...] = (
    "mean",
    "perplexity",
    "weighted_perplexity",
    "bits_per_byte",
)
"""How lm-eval aggregates the items of one task. Groups with `weight_by_size: false` take the mean
of their tasks' means instead, and a group whose worst task counts the lowest or highest of them."""


EXTREMES: tuple[Aggregation, ...] = ("min_of_means", "max_of_means")
"""Aggregations of groups whose worst task counts."""

MAX_LOG_PERPLEXITY = 300.0
"""The log of the largest perplexity reported; only broken models exceed it."""
MODEL_TASK = "model"
MODEL_ITEM = (MODEL_TASK, 0)
"""Stands for the model itself, in place of an item of a task."""
PROPERTIES: tuple[str, ...] = ("distance_to_base", "parameters", "active_parameters")
"""What can be measured of a model itself, without a task."""
SIZES: tuple[str, ...] = ("parameters", "active_parameters")
"""Those that follow from a model's layers and experts alone, whatever the weights."""
KL_TO_BASE = "kl_to_base"
"""What is measured of a model beside its base, on text or on the prompts of tasks."""
MEASURED = (*PROPERTIES, KL_TO_BASE)
"""What `properties` of a configuration may name."""


@dataclass(frozen=True)
class Objective:
    """A task, one of its metrics, and a direction.

    `task` is an lm-eval task or group; `metric` and `filter` are lm-eval's key ("acc,none").
    A property of the model itself has the aggregation "exact": one number, known without error.
    An objective that is not a `goal` only serves constraints or a group and is not optimised; one
    that is `held_out` is no goal either, and is scored in the test only. A group has `members`, the
    names of the objectives whose mean it is, or the worst of them; where it is `relative`, each is
    divided by the value of the source that is best at it.
    """

    name: str
    task: str
    metric: str
    filter: str
    direction: Direction
    aggregation: Aggregation = "mean"
    goal: bool = True
    held_out: bool = False
    members: tuple[str, ...] = ()
    relative: bool = False

    @property
    def is_exact(self) -> bool:
        """Whether this is a property of the model itself rather than a score of items."""
        return self.aggregation == "exact"

    @property
    def is_size(self) -> bool:
        """Whether weights do not change it: its slope in every number is 0."""
        return self.is_exact and self.metric in SIZES

    def loss(self, value: float) -> float:
        """Return the value as a loss, to be minimised."""
        return -value if self.direction == "maximize" else value


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error, from `n` items."""

    value: float
    stderr: float
    n: int


@dataclass(frozen=True)
class ItemScores:
    """Scores of one objective on items of its leaf tasks, in the order of `items`.

    Attributes:
        items: (leaf task, lm-eval doc id).
        values: one score per item.
        weights: the number of words or bytes of each item, or what the best source scored on it;
            None for plain means.
        clusters: the cluster of each item, by number; None where all items are independent.
    """

    items: tuple[tuple[str, int], ...]
    values: tuple[float, ...]
    weights: tuple[float, ...] | None = None
    clusters: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        given = (self.items, self.values, self.weights, self.clusters)
        sizes = {len(column) for column in given if column is not None}
        if len(sizes) != 1:
            raise ValueError(f"items, values and weights differ in length: {sorted(sizes)}")

    def rows(self, rows: Sequence[int]) -> ItemScores:
        """Return the scores of the given rows, in the given order."""
        return ItemScores(
            tuple(self.items[row] for row in rows),
            tuple(self.values[row] for row in rows),
            None if self.weights is None else tuple(self.weights[row] for row in rows),
            None if self.clusters is None else tuple(self.clusters[row] for row in rows),
        )

    def clustered(self, clusters: Mapping[str, Sequence[int]]) -> ItemScores:
        """Return the same scores with the cluster of each item.

        Args:
            clusters: the cluster of every document of each leaf task, by doc id. If one of the
                scores' tasks is missing, the scores are returned unchanged.
        """
        if not all(task in clusters for task, _ in self.items):
            return self
        numbers = tuple(clusters[task][doc] for task, doc in self.items)
        independent = len(set(numbers)) == len(numbers)
        return replace(self, clusters=None if independent else numbers)


def model_property(name: str) -> Objective:
    """Return the objective for a property of the model itself, to be minimised."""
    return Objective(name, MODEL_TASK, name, "none", "minimize", "exact")


def restricted(scores: ItemScores, items: Container[tuple[str, int]]) -> ItemScores:
    """Return the scores restricted to `items`."""
    rows = [row for row, item in enumerate(scores.items) if item in items]
    return scores if len(rows) == len(scores.items) else scores.rows(rows)


def joined(parts: Sequence[ItemScores]) -> ItemScores:
    """Concatenate the scores of disjoint sets of items.

    Properties of the model itself are the same in every part, so the first one is returned.
    """
    if parts[0].items == (MODEL_ITEM,):
        return parts[0]
    weights = tuple(w for part in parts for w in part.weights or ())
    return ItemScores(
        tuple(item for part in parts for item in part.items),
        tuple(value for part in parts for value in part.values),
        weights or None,
    )


def estimate(scores: ItemScores, aggregation: Aggregation) -> Estimate:
    """Aggregate item scores as lm-eval does, with the standard error of the aggregate.

    Means use the sample standard error, means of means the standard error over independent tasks,
    ratios and exponentials the delta method. Without items, value and error are NaN.
    """
    values = np.asarray(scores.values, dtype=np.float64)
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, 0)
    if aggregation == "exact":
        return Estimate(float(values[0]), 0.0, 1)
    if aggregation in ("mean", "perplexity"):
        return transformed(Estimate(float(values.mean()), standard_error(values), n), aggregation)
    if aggregation == "mean_of_means":
        mean, influences = mean_of_means(scores)
        return Estimate(mean, standard_error(influences), n)
    if aggregation in EXTREMES:
        rows, of_task = deciding(scores, aggregation)
        return estimate(scores.rows(rows), of_task)
    ratio, residuals = ratio_of_means(scores)
    return transformed(Estimate(ratio, standard_error(residuals), n), aggregation)


def transformed(mean: Estimate, aggregation: Aggregation) -> Estimate:
    """Return the value made of a mean or ratio of log-likelihoods, its error by the delta method.

    Other aggregations are means or ratios themselves.
    """
    if aggregation in ("perplexity", "weighted_perplexity"):
        value = perplexity(mean.value)
        return Estimate(value, value * mean.stderr, mean.n)
    if aggregation == "bits_per_byte":
        return Estimate(-mean.value / math.log(2), mean.stderr / math.log(2), mean.n)
    return mean


def ratio_of_means(scores: ItemScores) -> tuple[float, Floats]:
    """Return Σ values / Σ weights, and n times each item's linear influence on it: (n,).

    By the delta method, the standard error of the influences' mean is that of the ratio.
    """
    values = np.asarray(scores.values, dtype=np.float64)
    weights = np.ones_like(values) if scores.weights is None else np.asarray(scores.weights)
    ratio = float(values.sum() / weights.sum())
    # Cochran, Sampling Techniques, 1977, eq. 6.4: (y − R x) / x̄
    return ratio, (values - ratio * weights) / weights.mean()


def mean_of_means(scores: ItemScores) -> tuple[float, Floats]:
    """Return the mean of the tasks' means, and n times each item's linear influence on it: (n,).

    The standard error of the influences' mean is √(Σ_t s_t² / n_t) / T for T tasks (Cochran,
    Sampling Techniques, 1977, eq. 5.13), as in lm-eval for groups not weighted by size. Where items
    have weights, a task's mean is its ratio Σ values / Σ weights, as in `ratio_of_means`.
    """
    values = np.asarray(scores.values, dtype=np.float64)
    factors = item_weights(scores.items)
    _, tasks = np.unique([task for task, _ in scores.items], return_inverse=True)
    sizes = np.bincount(tasks)
    weights = np.ones_like(values) if scores.weights is None else np.asarray(scores.weights)
    totals = np.bincount(tasks, weights)
    means = np.bincount(tasks, values) / totals
    residuals = (values - means[tasks] * weights) / (totals / sizes)[tasks]
    n = len(values)
    # Each task's squares are divided by n_t - 1, where `standard_error` divides by n - 1.
    unbiased = np.sqrt(np.maximum(n - 1, 1) / n * sizes / np.maximum(sizes - 1, 1))
    return float(means.mean()), residuals * factors * unbiased[tasks]


def deciding(scores: ItemScores, aggregation: Aggregation) -> tuple[list[int], Aggregation]:
    """Return the rows of the task with the lowest or the highest mean, and how they aggregate.

    Of equal tasks, the first decides. The delta method's standard error of a minimum is that of the
    task that attains it.
    """
    rows: dict[str, list[int]] = {}
    for row, (task, _) in enumerate(scores.items):
        rows.setdefault(task, []).append(row)
    of_task: Aggregation = "mean" if scores.weights is None else "ratio"
    sign = 1 if aggregation == "min_of_means" else -1
    found = min(rows.values(), key=lambda own: sign * estimate(scores.rows(own), of_task).value)
    return found, of_task


def item_weights(items: Sequence[tuple[str, int]]) -> Floats:
    """Return the weight of each item in a mean of its tasks' means, 1 on average: (items,)."""
    names, tasks = np.unique([task for task, _ in items], return_inverse=True)
    sizes = np.bincount(tasks)
    return np.asarray(len(items) / (len(names) * sizes[tasks]), dtype=np.float64)


def perplexity(log_likelihood: float) -> float:
    """Return exp(-x) of a mean log-likelihood x in nats, capped at exp(`MAX_LOG_PERPLEXITY`).

    The largest float is about e^709, and the largest whose square is finite about e^354.
    """
    return math.exp(min(-log_likelihood, MAX_LOG_PERPLEXITY))


def standard_error(values: Floats) -> float:
    """Return the sample standard error of the mean; 0 for a single value."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def goals(objectives: Iterable[Objective]) -> tuple[Objective, ...]:
    """Return the objectives that are optimised, leaving out those that only serve constraints."""
    return tuple(o for o in objectives if o.goal)


def searched(objectives: Iterable[Objective]) -> tuple[Objective, ...]:
    """Return the objectives that are measured before the test, leaving out those held out."""
    return tuple(o for o in objectives if not o.held_out)


def estimates(
    objectives: Sequence[Objective], scores: Mapping[str, ItemScores]
) -> dict[str, Estimate]:
    """Return one estimate per objective, by objective name.

    A group without item scores of its own is estimated from its members.
    """
    alone = {o.name: estimate(scores[o.name], o.aggregation) for o in objectives if not o.members}
    return {
        o.name: alone[o.name]
        if not o.members
        else estimate(scores[o.name], o.aggregation)
        if o.name in scores
        else of_members(o, alone, {})
        for o in objectives
    }


def of_members(
    group: Objective, found: Mapping[str, Estimate], experts: Mapping[str, float]
) -> Estimate:
    """Return a group's estimate from those of its members, whose items are disjoint.

    Args:
        group: the group.
        found: the members' estimates, by name.
        experts: the value of the best source, by member, which a relative group divides by. They
            are taken as known: their errors are common to all models.
    """
    own = [found[name] for name in group.members]
    units = [experts.get(name, math.nan) if group.relative else 1.0 for name in group.members]
    if not all(e.n for e in own) or not all(map(math.isfinite, units)):
        return Estimate(math.nan, math.nan, 0)
    parts = [
        Estimate(e.value / unit, e.stderr / unit, e.n) for e, unit in zip(own, units, strict=True)
    ]
    if group.aggregation in EXTREMES:
        return max(parts, key=lambda part: group.loss(part.value))
    value = math.fsum(part.value for part in parts) / len(parts)
    return Estimate(
        value,
        math.sqrt(sum(part.stderr**2 for part in parts)) / len(parts),
        sum(part.n for part in parts),
    )


def losses(objectives: Sequence[Objective], measured: Mapping[str, Estimate]) -> tuple[float, ...]:
    """Return the losses of the goals among the objectives, in their order."""
    return tuple(o.loss(measured[o.name].value) for o in goals(objectives))
