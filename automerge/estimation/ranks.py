"""Rank correlation."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

MIN_PAIRS = 10
"""With fewer pairs, a rank correlation says nothing: its standard error is above 1/3."""


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
    x, y = (stats.rankdata(values) for values in (a, b))
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size else None
