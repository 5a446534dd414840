"""Control variates: what other candidates say of the items a candidate did not see."""

from __future__ import annotations

import math

import numpy as np

from automerge.arrays import Floats, Indices
from automerge.objective import Estimate

DONORS = 24
"""Nearest candidates that are asked."""
BANDWIDTH_DONOR = 8
"""The donor whose distance is the kernel's standard deviation."""
STRENGTH = 0.5
"""How many donors' worth an item's mean over all candidates counts for in its prediction."""
PRIOR_ITEMS = 10.0
"""How many items' worth of evidence the coefficients are shrunk towards 0 by."""


def nearest(distances: Floats) -> Indices:
    """The candidates to predict from, at most DONORS of finite distance, nearest first."""
    finite = np.flatnonzero(np.isfinite(distances))
    if len(finite) > DONORS:
        furthest = np.partition(distances[finite], DONORS - 1)[DONORS - 1]
        finite = finite[distances[finite] <= furthest]
    return finite[np.argsort(distances[finite], kind="stable")[:DONORS]]


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


def control_variates(row: Floats, predictors: Floats) -> Estimate:
    """The mean over a pool of items, from some of them drawn at random.

    ȳ − β(c̄ − C̄): `row` (items,) holds the scores of the items seen and NaN for the others; c̄ are
    the means over those seen, and C̄ those over all, of `predictors` (k, items), which say of every
    item what its score may be. β is the multiple regression coefficient (Lavenberg and Welch 1981),
    shrunk towards 0; any predictors leave the estimate consistent.

    The standard error comes from leave-one-out residuals, which pay for the coefficients (HC3:
    MacKinnon and White 1985; without predictors the usual one), with the finite-population
    correction (Cochran 1977, eq. 2.20): so it is about the pool's items and none beyond.
    """
    seen = np.isfinite(row)
    values, known = row[seen], predictors[:, seen]
    n = len(values)
    centred = values - values.mean()
    about = known - known.mean(axis=1, keepdims=True)
    spread = predictors - predictors.mean(axis=1, keepdims=True)
    prior = PRIOR_ITEMS * (spread @ spread.T) / len(row)
    inverse = np.linalg.pinv(about @ about.T + prior, hermitian=True)
    slopes = inverse @ (about @ centred)
    value = float(values.mean() - slopes @ (known.mean(axis=1) - predictors.mean(axis=1)))
    if n in (1, len(row)):
        return Estimate(value, 0.0, n)
    leverages = 1 / n + ((inverse @ about) * about).sum(axis=0)
    residuals = (centred - slopes @ about) / (1 - leverages)
    variance = float(residuals @ residuals) * (n - 1) / n**3 * (1 - n / len(row))
    return Estimate(value, math.sqrt(variance), n)
