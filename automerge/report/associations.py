"""How parameters go together with scores: strength and direction, each with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from automerge.estimation.intervals import normal_quantile
from automerge.estimation.ranks import mean_ranks
from automerge.text.json_number import finite

LEVEL = 0.95
MIN_TRIALS = 8
"""Fewer trials say nothing about a parameter."""
GROUPS = 4
"""The maximum number of groups of equal size that a number's values are put into."""
PER_GROUP = 6
"""The minimum number of trials in such a group, on average."""


@dataclass(frozen=True)
class Association:
    """How one parameter goes together with one objective over `n` trials.

    Attributes:
        explained: the share of the variance of the scores' ranks that lies between groups of the
            parameter's values, less what chance explains (ε², Kelley 1935): each choice is a group,
            and numbers are put into up to `GROUPS` groups of equal size, so that a best value in
            the middle counts too. None for fewer than `MIN_TRIALS` trials, or a single group.
        low, high: its 95 % interval, from the noncentral F distribution (Steiger 2004).
        rank: Spearman's rank correlation with a better score; None for choices.
        rank_low, rank_high: its 95 % interval, by Fisher's z with the standard error
            √(1.06 / (n − 3)) (Fieller, Hartley and Pearson 1957).
        n: trials with both a value and a score.
    """

    explained: float | None
    low: float
    high: float
    rank: float | None
    rank_low: float
    rank_high: float
    n: int


def associate(
    values: Sequence[object], losses: NDArray[np.float64], categorical: bool
) -> Association:
    """Compare a parameter's values with losses.

    Args:
        values: a number or choice per trial; None where the trial has no such parameter.
        losses: (trials,), the smaller the better; NaN where unknown.
        categorical: whether the values are choices.
    """
    known = [row for row, v in enumerate(values) if v is not None and np.isfinite(losses[row])]
    n = len(known)
    nothing = Association(None, 0.0, 1.0, None, -1.0, 1.0, n)
    if n < MIN_TRIALS or np.ptp(losses[known]) == 0:
        return nothing
    chosen = [values[row] for row in known]
    ranks = mean_ranks(-losses[known])
    numbers = None if categorical else np.array([float(str(v)) for v in chosen])
    if numbers is not None and np.ptp(numbers) == 0:
        return nothing
    groups = [str(v) for v in chosen] if numbers is None else _quantile_groups(numbers)
    explained, low, high = _explained(groups, ranks)
    rank, ends = None, (-1.0, 1.0)
    if numbers is not None:
        rank = finite(float(np.corrcoef(mean_ranks(numbers), ranks)[0, 1]))
        ends = ends if rank is None else _rank_interval(rank, n)
    return Association(explained, low, high, rank, *ends, n)


def _quantile_groups(numbers: NDArray[np.float64]) -> list[str]:
    """Return the group of each number: equal sizes, but equal numbers stay together."""
    wanted = max(2, min(GROUPS, len(numbers) // PER_GROUP))
    edges = np.unique(np.quantile(numbers, np.arange(1, wanted) / wanted))
    found = np.searchsorted(edges, numbers, side="left")
    if len(np.unique(found)) == 1:
        found = np.searchsorted(edges, numbers, side="right")
    return [str(group) for group in found.tolist()]


def _explained(
    groups: Sequence[str], ranks: NDArray[np.float64]
) -> tuple[float | None, float, float]:
    """Return ε² of ranks between groups, and the 95 % interval of the share it estimates."""
    names, of = np.unique(np.array(groups), return_inverse=True)
    n, k = len(ranks), len(names)
    if k in (1, n):
        return None, 0.0, 1.0
    sizes = np.bincount(of)
    means = np.bincount(of, weights=ranks) / sizes
    between = float(np.sum(sizes * (means - ranks.mean()) ** 2))
    within = float(np.sum((ranks - means[of]) ** 2))
    share = between / (between + within)
    if within <= 1e-12 * between:
        return 1.0, 0.0, 1.0
    f = (between / (k - 1)) / (within / (n - k))
    low, high = (_noncentral_share(f, k, n, tail) for tail in ((1 + LEVEL) / 2, (1 - LEVEL) / 2))
    return max(1 - (1 - share) * (n - 1) / (n - k), 0.0), low, high


def _noncentral_share(f: float, k: int, n: int, tail: float) -> float:
    """Return λ / (λ + n) for the noncentrality λ at which F ≤ f has probability `tail`."""
    from scipy import optimize, stats

    def excess(noncentrality: float) -> float:
        return float(stats.ncf.cdf(f, k - 1, n - k, noncentrality)) - tail

    if float(stats.f.cdf(f, k - 1, n - k)) <= tail:
        return 0.0
    top = 10.0
    while excess(top) > 0 and top < 1e5:
        top *= 4
    if not excess(top) <= 0:
        return 1.0
    found = float(optimize.brentq(excess, 0.0, top, xtol=1e-3))
    return found / (found + n)


def _rank_interval(rank: float, n: int) -> tuple[float, float]:
    if abs(rank) >= 1:
        return min(rank, 0.0), max(rank, 0.0)
    width = normal_quantile(LEVEL) * math.sqrt(1.06 / (n - 3))
    z = math.atanh(rank)
    return math.tanh(z - width), math.tanh(z + width)
