"""Objectives: what is measured, which direction is better, and how item scores become a value."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from automerge.arrays import Floats

Direction = Literal["maximize", "minimize"]
Aggregation = Literal["mean", "perplexity", "weighted_perplexity", "bits_per_byte", "exact"]
AGGREGATIONS: tuple[Aggregation, ...] = (
    "mean",
    "perplexity",
    "weighted_perplexity",
    "bits_per_byte",
)


LARGEST_LOG_PERPLEXITY = 300.0
"""A perplexity beyond e to this is that of a broken model."""
MODEL_TASK = "model"
MODEL_ITEM = (MODEL_TASK, 0)
"""Stands for the model itself, in place of an item of a task."""
PROPERTIES: tuple[str, ...] = ("distance_to_base", "parameters")
"""What is measured of a model itself, without a task."""


@dataclass(frozen=True)
class Objective:
    """A task, one of its metrics, and a direction.

    `task` is an lm-eval task or group; `metric` and `filter` are lm-eval's key ("acc,none").
    A property of the model itself has the aggregation "exact": one number, known without error.
    What is no `goal` only serves constraints: nothing is better for it.
    """

    name: str
    task: str
    metric: str
    filter: str
    direction: Direction
    aggregation: Aggregation = "mean"
    goal: bool = True

    @property
    def is_exact(self) -> bool:
        """Whether it is a property of the model itself rather than a score of items."""
        return self.aggregation == "exact"

    def loss(self, value: float) -> float:
        """The value as something to minimise."""
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

    `items` are (leaf task, lm-eval doc id). `weights` is None for plain means, else the number of
    words or bytes an item counts for. `clusters` numbers what each item belongs to; None where
    every item stands for itself.
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
        """Some of its items."""
        return ItemScores(
            tuple(self.items[row] for row in rows),
            tuple(self.values[row] for row in rows),
            None if self.weights is None else tuple(self.weights[row] for row in rows),
            None if self.clusters is None else tuple(self.clusters[row] for row in rows),
        )

    def clustered(self, clusters: Mapping[str, Sequence[int]]) -> ItemScores:
        """The same, knowing the cluster of every document of each task."""
        if not all(task in clusters for task, _ in self.items):
            return self
        own = tuple(clusters[task][doc] for task, doc in self.items)
        alone = len(set(own)) == len(own)
        return replace(self, clusters=None if alone else own)


def model_property(name: str) -> Objective:
    """A property of the model itself, which is better when it is smaller."""
    return Objective(name, MODEL_TASK, name, "none", "minimize", "exact")


def restricted(scores: ItemScores, items: Container[tuple[str, int]]) -> ItemScores:
    """The scores of those of its items that are among some."""
    rows = [row for row, item in enumerate(scores.items) if item in items]
    return scores if len(rows) == len(scores.items) else scores.rows(rows)


def joined(parts: Sequence[ItemScores]) -> ItemScores:
    """The scores of disjoint sets of items as one; of the model itself, they are the same."""
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

    Means use the sample standard error; ratios and exponentials the delta method.
    """
    values = np.asarray(scores.values, dtype=np.float64)
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, 0)
    if aggregation == "exact":
        return Estimate(float(values[0]), 0.0, 1)
    if aggregation in ("mean", "perplexity"):
        mean = float(values.mean())
        stderr = standard_error(values)
        if aggregation == "mean":
            return Estimate(mean, stderr, n)
        return Estimate(perplexity(mean), perplexity(mean) * stderr, n)
    weights = np.ones(n) if scores.weights is None else np.asarray(scores.weights, dtype=np.float64)
    ratio = float(values.sum() / weights.sum())
    # Variance of a ratio of means (Cochran, Sampling Techniques, 1977, eq. 6.4).
    stderr = standard_error((values - ratio * weights) / weights.mean())
    if aggregation == "weighted_perplexity":
        return Estimate(perplexity(ratio), perplexity(ratio) * stderr, n)
    return Estimate(-ratio / math.log(2), stderr / math.log(2), n)


def perplexity(log_likelihood: float) -> float:
    """exp(-x) of a mean log-likelihood; from `LARGEST_LOG_PERPLEXITY` on it grows no more.

    A float holds no more than e^709, and a square of it no more than e^354.
    """
    return math.exp(min(-log_likelihood, LARGEST_LOG_PERPLEXITY))


def standard_error(values: Floats) -> float:
    """Sample standard error of the mean; 0 for a single value."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def goals(objectives: Iterable[Objective]) -> tuple[Objective, ...]:
    """The objectives that are to be better, without those that only serve constraints."""
    return tuple(o for o in objectives if o.goal)


def estimates(
    objectives: Sequence[Objective], scores: Mapping[str, ItemScores]
) -> dict[str, Estimate]:
    """One estimate an objective, by objective name."""
    return {o.name: estimate(scores[o.name], o.aggregation) for o in objectives}


def losses(objectives: Sequence[Objective], measured: Mapping[str, Estimate]) -> tuple[float, ...]:
    """Values to minimise, in the order of the goals among the objectives."""
    return tuple(o.loss(measured[o.name].value) for o in goals(objectives))
