"""Neighbour control variates: what similar candidates say of the items a candidate did not see."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from automerge.objective import Estimate

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

DONORS = 12
"""Nearest candidates that are asked."""
BANDWIDTH_DONOR = 4
"""The donor whose distance is the kernel's standard deviation."""
STRENGTH = 0.5
"""How many donors' worth an item's mean over all candidates counts for in its prediction."""
PRIOR_ITEMS = 10.0
"""How many items' worth of evidence the coefficient is shrunk towards 0 by."""


def nearest(distances: Floats) -> Indices:
    """The candidates to predict from, at most DONORS of finite distance, nearest first."""
    order = np.argsort(distances, kind="stable")[:DONORS]
    return order[np.isfinite(distances[order])]


def predictions(scores: Floats, distances: Floats, item_means: Floats) -> Floats:
    """Predict a candidate's score on every item from others': shape (items,).

    `scores` are (donors, items), nearest first, NaN where an item was not seen; `distances`
    (donors,) are theirs to the candidate. A kernel-weighted mean, shrunk to the item's mean over
    all candidates.
    """
    if not len(scores):
        return item_means
    width = max(float(distances[min(BANDWIDTH_DONOR, len(distances)) - 1]), 1e-6)
    weights = np.exp(-0.5 * (distances / width) ** 2)
    seen = np.isfinite(scores)
    total = weights @ np.where(seen, scores, 0.0) + STRENGTH * item_means
    return np.asarray(total / (weights @ seen + STRENGTH))


def control_variate(values: Floats, predicted: Floats, pool_mean: float, n_pool: int) -> Estimate:
    """The mean over a pool of items, from some of them drawn at random.

    ȳ − β(c̄ − C̄): `values` and `predicted` are on the items seen, C̄ = `pool_mean` is the
    prediction's mean over all `n_pool`. β is the regression coefficient (Lavenberg and Welch 1981)
    shrunk towards 0; any prediction leaves the estimate consistent. The standard error is that of
    the residuals with the finite-population correction (Cochran 1977, eq. 2.20), so it is about
    the pool's items and none beyond.
    """
    n = len(values)
    centred, about = values - values.mean(), predicted - predicted.mean()
    spread = float(about @ about)
    slope = float(centred @ about) / spread if spread > 0 else 0.0
    slope *= n / (n + PRIOR_ITEMS)
    residuals = centred - slope * about
    freedom = max(n - 2, 1)
    variance = float(residuals @ residuals) / freedom / n * max(1 - n / n_pool, 0.0)
    value = float(values.mean()) - slope * (float(predicted.mean()) - pool_mean)
    return Estimate(value, math.sqrt(variance), n)
