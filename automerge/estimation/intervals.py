"""Confidence intervals of one model's score on one objective."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from automerge.arrays import Floats
from automerge.estimation.clusters import clustered_standard_error
from automerge.objective import (
    EXTREMES,
    Aggregation,
    ItemScores,
    deciding,
    estimate,
    item_weights,
    mean_of_means,
    perplexity,
    ratio_of_means,
    standard_error,
)

MEANS = ("mean", "mean_of_means", *EXTREMES)
"""Aggregations that lie between the lowest and the highest score."""


@dataclass(frozen=True)
class Interval:
    """A value with its standard error and confidence limits, from `n` items.

    Limits are infinite where the items say nothing about their variance, and everything is NaN
    without items.
    """

    value: float
    low: float
    high: float
    stderr: float
    n: int

    @property
    def half_width(self) -> float:
        """Half the distance between the limits."""
        return (self.high - self.low) / 2


def interval(scores: ItemScores, aggregation: Aggregation, level: float = 0.95) -> Interval:
    """Return the confidence interval of an aggregated score.

    Means of 0/1 scores get Wilson's score interval, which Bowyer et al. (2025, arXiv:2503.01747)
    and Miller (2024, arXiv:2411.00640) motivate: the normal interval is too narrow below a few
    hundred items. Means of means get it for the effective number of items. Other means get
    Student's t; ratios and exponentials get Student's t on the linearised mean, then the monotone
    transform. A lowest or highest mean gets the interval of the task that decides. Items in
    clusters get Student's t with the clustered standard error (`clusters`). Scores that are all
    equal never give an interval of width zero; see `equal_scores_interval`.

    Args:
        scores: of one objective.
        aggregation: how they become a value.
        level: the probability that the interval covers the true value.
    """
    point = estimate(scores, aggregation)
    if point.n == 0:
        return Interval(math.nan, math.nan, math.nan, math.nan, 0)
    if aggregation in EXTREMES:
        rows, of_task = deciding(scores, aggregation)
        return interval(scores.rows(rows), of_task, level)
    values = np.asarray(scores.values, dtype=np.float64)
    if aggregation == "exact":
        return Interval(point.value, point.value, point.value, 0.0, 1)
    if scores.clusters is not None and not is_constant(
        influences := influence(scores, aggregation), float(np.abs(influences).max())
    ):
        stderr = clustered_standard_error(influences, scores.clusters)
        low, high = student_interval(point.value, stderr, len(set(scores.clusters)), level)
        if aggregation in MEANS and scores.weights is None and is_unit(values):
            low, high = max(low, 0.0), min(high, 1.0)
        return Interval(point.value, low, high, stderr, point.n)
    if aggregation in MEANS:
        low, high = _mean_interval(scores, aggregation, level)
    else:
        low, high = _ratio_interval(scores, aggregation, level)
    return Interval(point.value, low, high, point.stderr, point.n)


def effective_number(scores: ItemScores, aggregation: Aggregation) -> float:
    """Return how many items of equal weight say as much about a mean (Kish, 1965, section 8.2)."""
    if aggregation in EXTREMES:
        return len(deciding(scores, aggregation)[0])
    if aggregation != "mean_of_means":
        return len(scores.values)
    weights = item_weights(scores.items)
    return float(weights.sum() ** 2 / (weights @ weights))  # (Σ w)² / Σ w²


def wilson_interval(successes: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Return the score interval of a proportion (Wilson 1927, J. Am. Stat. Assoc. 22, p. 209)."""
    z = normal_quantile(level)
    proportion = successes / n
    # (p + z²/2n ± z √(p (1 − p)/n + z²/4n²)) / (1 + z²/n)
    shrink = 1 / (1 + z**2 / n)
    centre = shrink * (proportion + z**2 / (2 * n))
    half = shrink * z * math.sqrt(proportion * (1 - proportion) / n + z**2 / (4 * n**2))
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return low, high


def mean_interval(intervals: Sequence[Interval], groups: Sequence[str]) -> Interval:
    """Average the values of several objectives, with limits for the average.

    The distances from a value to its limits are combined like standard errors (MOVER: Zou and
    Donner 2008, Statistics in Medicine 27, 1693-1702, eq. 3): in quadrature between groups, whose
    items are disjoint, and added within a group, whose objectives share items and may agree fully.

    Args:
        intervals: one per objective.
        groups: what each objective's items are, by any name.

    Returns:
        The average; NaN without intervals.
    """
    k = len(intervals)
    if k == 0:
        return Interval(math.nan, math.nan, math.nan, math.nan, 0)
    mean = sum(i.value for i in intervals) / k

    def combined(distances: Sequence[float]) -> float:
        totals: dict[str, float] = {}
        for group, distance in zip(groups, distances, strict=True):
            totals[group] = totals.get(group, 0.0) + distance
        # Zou and Donner 2008, eq. 3, with the sum over disjoint groups: √Σ_g (Σ_i d_i)² / k
        return math.sqrt(sum(total**2 for total in totals.values())) / k

    return Interval(
        mean,
        mean - combined([i.value - i.low for i in intervals]),
        mean + combined([i.high - i.value for i in intervals]),
        combined([i.stderr for i in intervals]),
        sum(i.n for i in intervals),
    )


def equal_scores_interval(
    value: float, n: float, lowest: float, highest: float, level: float = 0.95
) -> tuple[float, float]:
    """Bound the mean of a population of which `n` draws were all `value`.

    By Wilson's limit for 0 of n, a fraction of at most z²/(n + z²) differs from `value`, and what
    differs lies in [lowest, highest]. Infinite bounds give infinite limits.
    """
    z = normal_quantile(level)
    differing = z**2 / (n + z**2)
    return value + differing * (lowest - value), value + differing * (highest - value)


def influence(scores: ItemScores, aggregation: Aggregation) -> Floats:
    """Return each item's linear influence on the aggregate, times n: (n,), summing to zero.

    Its standard error over items is the delta method's for the aggregate.
    """
    values = np.asarray(scores.values, dtype=np.float64)
    if aggregation in ("mean", "exact"):
        return values - float(values.mean())
    if aggregation == "perplexity":
        mean = float(values.mean())
        return -perplexity(mean) * (values - mean)  # d exp(−x) = −exp(−x) dx
    if aggregation == "mean_of_means":
        return mean_of_means(scores)[1]
    if aggregation in EXTREMES:
        rows, of_task = deciding(scores, aggregation)
        n, n_task = len(values), len(rows)
        found = np.zeros_like(values)
        # Their standard error over n items is that of the task's own n_t.
        scale = math.sqrt(n * max(n - 1, 1) / (n_task * max(n_task - 1, 1)))
        found[rows] = scale * influence(scores.rows(rows), of_task)
        return found
    ratio, residuals = ratio_of_means(scores)
    if aggregation == "ratio":
        return residuals
    if aggregation == "weighted_perplexity":
        return -perplexity(ratio) * residuals
    return -residuals / math.log(2)


def one_item(scores: ItemScores) -> float:
    """Return how much more a mean is if all its items score 1 more: 1, or relative to an expert."""
    if scores.weights is None:
        return 1.0
    tasks: dict[str, list[float]] = {}
    for (task, _), weight in zip(scores.items, scores.weights, strict=True):
        tasks.setdefault(task, []).append(weight)
    return 1 / min(float(np.mean(own)) for own in tasks.values())


def is_binary(values: Floats) -> bool:
    """Return whether every score is 0 or 1."""
    return bool(np.all((values == 0) | (values == 1)))


def is_unit(values: Floats) -> bool:
    """Return whether every score lies in [0, 1]."""
    return bool(np.all((values >= 0) & (values <= 1)))


def is_constant(values: Floats, size: float) -> bool:
    """Return whether values of quantities of the given size differ by rounding only."""
    return bool(np.ptp(values) <= 1e-12 * size)


def normal_quantile(level: float) -> float:
    """Return z such that [-z, z] holds `level` of the standard normal distribution."""
    return float(special.ndtri((1 + level) / 2))


def t_quantile(level: float, degrees: int) -> float:
    """Return t such that [-t, t] holds `level` of Student's t distribution."""
    return float(special.stdtrit(degrees, (1 + level) / 2))


def student_interval(
    mean: float, stderr: float, n: int, level: float = 0.95
) -> tuple[float, float]:
    """Return Student's t interval of a mean of `n` > 1 items."""
    half = t_quantile(level, n - 1) * stderr
    return mean - half, mean + half


def _mean_interval(
    scores: ItemScores, aggregation: Aggregation, level: float
) -> tuple[float, float]:
    values = np.asarray(scores.values, dtype=np.float64)
    point, n = estimate(scores, aggregation), effective_number(scores, aggregation)
    if scores.weights is not None:
        if is_constant(influence(scores, aggregation), 1.0):
            bound = one_item(scores) if is_unit(values) else math.inf
            return equal_scores_interval(
                point.value, n, point.value - bound, point.value + bound, level
            )
        return student_interval(point.value, point.stderr, point.n, level)
    if is_binary(values):
        return wilson_interval(point.value * n, n, level)
    if is_constant(influence(scores, aggregation), float(np.abs(values).max())):
        lowest, highest = (0.0, 1.0) if is_unit(values) else (-math.inf, math.inf)
        return equal_scores_interval(point.value, n, lowest, highest, level)
    return student_interval(point.value, point.stderr, point.n, level)


def _ratio_interval(
    scores: ItemScores, aggregation: Aggregation, level: float
) -> tuple[float, float]:
    ratio, residuals = ratio_of_means(scores)
    if is_constant(residuals, abs(ratio)):
        low, high = -math.inf, math.inf
    else:
        low, high = student_interval(ratio, standard_error(residuals), len(residuals), level)
    if aggregation == "ratio":
        return low, high
    to_value: Callable[[float], float] = (
        (lambda mean: -mean / math.log(2)) if aggregation == "bits_per_byte" else _exponential
    )
    return to_value(high), to_value(low)  # both transforms are decreasing


def _exponential(mean: float) -> float:
    try:
        return math.exp(-mean)
    except OverflowError:
        return math.inf
