"""Differences between two models on the items that both answered, and what a split can detect."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from automerge.estimation.clusters import clustered_standard_error
from automerge.estimation.intervals import (
    MEANS,
    Interval,
    effective_number,
    equal_scores_interval,
    influence,
    is_binary,
    is_constant,
    is_unit,
    mean_interval,
    normal_quantile,
    one_item,
    student_interval,
)
from automerge.objective import Aggregation, ItemScores, estimate, standard_error


@dataclass(frozen=True)
class Difference:
    """A difference with its confidence limits and standard error, from `n` common items.

    Everything is NaN without common items.
    """

    difference: float
    low: float
    high: float
    stderr: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


_NO_DIFFERENCE = Difference(math.nan, math.nan, math.nan, math.nan, 0)


def paired_difference(
    a: ItemScores, b: ItemScores, aggregation: Aggregation, level: float = 0.95
) -> Difference:
    """Compare a with b (a - b) on their common items, item by item.

    Pairing removes the items' difficulty from the variance (Miller 2024, arXiv:2411.00640, section
    4.2). Pairs of 0/1 scores get Tango's score interval; other means get Student's t on item
    differences; ratios and exponentials get Student's t on linearised item differences. Items in
    clusters get Student's t with the clustered standard error. Differences that are all equal
    never give an interval of width zero.

    Args:
        a: scores of one model.
        b: scores of another on the same objective.
        aggregation: how scores become a value.
        level: the probability that the interval covers the true difference.
    """
    a, b = _on_common_items(a, b)
    n = len(a.values)
    if n == 0:
        return _NO_DIFFERENCE
    difference = estimate(a, aggregation).value - estimate(b, aggregation).value
    if aggregation == "exact":
        return Difference(difference, difference, difference, 0.0, 1)
    influences = influence(a, aggregation) - influence(b, aggregation)
    stderr = standard_error(influences)
    if a.clusters is not None and not is_constant(influences, float(np.abs(influences).max())):
        stderr = clustered_standard_error(influences, a.clusters)
        low, high = student_interval(difference, stderr, len(set(a.clusters)), level)
        return Difference(difference, low, high, stderr, n)
    both = np.array([*a.values, *b.values], dtype=np.float64)
    if aggregation == "mean" and is_binary(both):
        only_a, only_b = int(np.sum(both[:n] > both[n:])), int(np.sum(both[:n] < both[n:]))
        low, high = tango_interval(only_a, only_b, n, level)
    elif is_constant(influences, float(np.abs(both).max())):
        bound = one_item(a) if aggregation in MEANS and is_unit(both) else math.inf
        alike = effective_number(a, aggregation)
        low, high = equal_scores_interval(difference, alike, -bound, bound, level)
    else:
        low, high = student_interval(difference, stderr, n, level)
    return Difference(difference, low, high, stderr, n)


def tango_interval(only_a: int, only_b: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the score interval of a difference of paired proportions.

    Of `n` pairs, `only_a` are right for a alone and `only_b` for b alone. Tango (1998), Statistics
    in Medicine 17, 891-908, eqs. 3 to 7; recommended among paired intervals by Newcombe (1998),
    Statistics in Medicine 17, 2635-2650, and Fagerland et al. (2014).
    """
    from scipy import optimize

    z = normal_quantile(level)
    difference = (only_a - only_b) / n

    def score(delta: float) -> float:
        # The probability of "b alone" under p(a) − p(b) = δ, by maximum likelihood:
        # q = (√(B² − 4 A C) − B) / 2 A, where A = 2 n.
        linear = -only_a - only_b + (2 * n - only_a + only_b) * delta
        constant = -only_b * delta * (1 - delta)
        q = (math.sqrt(max(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)
        variance = n * (2 * q + delta * (1 - delta))
        distance = only_a - only_b - n * delta
        # z(δ) = (b − c − n δ) / √(n (2 q + δ (1 − δ))), the b and c of Tango's table
        return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance)

    def limit(sign: int, bound: float) -> float:
        if difference == bound:
            return bound
        inner, outer = difference + sign * 1e-12, bound - sign * 1e-12
        root = optimize.brentq(lambda delta: score(delta) + sign * z, inner, outer, xtol=1e-12)
        return float(root)

    return limit(-1, -1.0), limit(+1, 1.0)


def mean_difference(differences: Sequence[Difference], groups: Sequence[str]) -> Difference:
    """Average differences on several objectives as `mean_interval` does."""
    values = [Interval(d.difference, d.low, d.high, d.stderr, d.n) for d in differences]
    mean = mean_interval(values, groups)
    return Difference(mean.value, mean.low, mean.high, mean.stderr, mean.n)


def smallest_detectable_difference(
    difference: Difference, level: float = 0.95, power: float = 0.8
) -> float:
    """Return the true difference that a comparison like this one detects with the given power.

    Miller 2024 (arXiv:2411.00640), section 5: (z of the level + z of the power) standard errors.
    The standard error is read from the interval's half width, so that it is never zero.
    """
    z = normal_quantile(level)
    half_width = (difference.high - difference.low) / 2
    return half_width / z * (z + float(special.ndtri(power)))


def _on_common_items(a: ItemScores, b: ItemScores) -> tuple[ItemScores, ItemScores]:
    if a.items == b.items:
        return a, b
    in_b = {item: row for row, item in enumerate(b.items)}
    rows = [(row, in_b[item]) for row, item in enumerate(a.items) if item in in_b]
    return a.rows([row for row, _ in rows]), b.rows([row for _, row in rows])
