"""Ranks, and their correlation."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from automerge.arrays import Floats

MIN_PAIRS = 10
"""With fewer pairs, a rank correlation says nothing: its standard error is above 1/3."""


def mean_ranks(values: ArrayLike) -> Floats:
    """Return ranks from 1, equal values having the mean of theirs; as `scipy.stats.rankdata`.

    (`scipy.stats` takes longer to import than all else that the search side needs.)

    Args:
        values: (n,), without NaN.

    Returns:
        (n,).
    """
    _, places, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    return np.asarray(ranks[places], dtype=np.float64)


def spearman(a: ArrayLike, b: ArrayLike) -> float | None:
    """Return Spearman's ρ, with mean ranks for ties.

    Args:
        a: (n,), finite.
        b: (n,), finite.

    Returns:
        None for fewer than `MIN_PAIRS` pairs, or where all values of one are equal.
    """
    if np.size(a) < MIN_PAIRS:
        return None
    x, y = (mean_ranks(values) for values in (a, b))
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size else None
