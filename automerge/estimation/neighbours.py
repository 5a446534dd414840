"""Control variates: predicting the items a candidate did not see from other candidates."""

from __future__ import annotations

import math

import numpy as np

from automerge.arrays import Floats, Indices
from automerge.objective import Estimate

MAX_DONORS = 24
"""The most candidates, nearest first, that a prediction is made from."""
BANDWIDTH_DONOR = 8
"""The kernel's standard deviation is the distance of the donor with this number, from 0."""
PRIOR_DONORS = 0.5
"""How many donors an item's mean over all candidates is worth in its prediction."""
PRIOR_ITEMS = 10.0
"""How many items unrelated to the predictors are added in effect, to shrink the coefficients; fewer
where predictors explain most of the variance, in proportion to the ratio of noise to signal."""
ROUNDS = 3
"""How often that ratio is found, first without any of those items."""
SMALLEST = 1e-12
"""Of what is divided by."""
PRIOR_DEGREES = 4.0
"""How many degrees of freedom the other candidates' variance is worth in a candidate's own."""


def nearest(distances: Floats) -> Indices:
    """Return the rows to predict from, at most MAX_DONORS at a finite distance, nearest first."""
    finite = np.flatnonzero(np.isfinite(distances))
    if len(finite) > MAX_DONORS:
        furthest = np.partition(distances[finite], MAX_DONORS - 1)[MAX_DONORS - 1]
        finite = finite[distances[finite] <= furthest]
    return finite[np.argsort(distances[finite], kind="stable")[:MAX_DONORS]]


def predictions(scores: Floats, distances: Floats, item_means: Floats) -> Floats:
    """Predict a candidate's score on every item: shape (items,).

    A kernel-weighted mean of the donors' scores, shrunk to the item's mean over all candidates.

    Args:
        scores: (donors, items), nearest first, NaN where an item was not seen.
        distances: (donors,), to the candidate.
        item_means: (items,).
    """
    if not len(scores):
        return item_means
    width = max(float(distances[min(BANDWIDTH_DONOR, len(distances)) - 1]), 1e-6)
    weights = np.exp(-0.5 * (distances / width) ** 2)
    seen = np.isfinite(scores)
    total = weights @ np.where(seen, scores, 0.0) + PRIOR_DONORS * item_means
    return np.asarray(total / (weights @ seen + PRIOR_DONORS))


def control_variates(row: Floats, predictors: Floats, usual: float | None = None) -> Estimate:
    """Estimate the mean over a pool of items from some of them drawn at random.

    The regression estimator ȳ − β(c̄ − C̄) (Lavenberg and Welch 1981): ȳ and c̄ are the means of
    scores and predictors over the items seen, C̄ the predictors' over all. β is the multiple
    regression coefficient, shrunk towards 0; any predictors leave the estimate consistent.

    The standard error comes from leave-one-out residuals, which account for the coefficients (HC3:
    MacKinnon and White 1985; the usual one without predictors), with the finite-population
    correction (Cochran 1977, eq. 2.20): so it is about the pool's items and none beyond. The
    variance of few items is itself uncertain, and 0 where all their scores are equal, so it is
    moderated by a usual one (Smyth 2004, Stat. Appl. Genet. Mol. Biol. 3, eq. for s̃²).

    Args:
        row: (items,), NaN for the items not seen.
        predictors: (k, items), each a guess of every item's score.
        usual: the variance of an item's score in other candidates; None if there are none.

    Returns:
        The mean with its error; NaN without items.
    """
    seen = np.isfinite(row)
    values, known = row[seen], predictors[:, seen]
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, 0)
    centred = values - values.mean()
    about = known - known.mean(axis=1, keepdims=True)
    deviations = predictors - predictors.mean(axis=1, keepdims=True)
    pooled = deviations @ deviations.T / len(row)
    noise, own = 0.0, 1 / n
    for _ in range(ROUNDS):
        # β, as if there were some more items whose scores no predictor explains
        inverse = np.linalg.pinv(about @ about.T + PRIOR_ITEMS * noise * pooled, hermitian=True)
        slopes = inverse @ (about @ centred)
        # e / (1 − h), what each item is off by when it is predicted from the others
        leverages = own + ((inverse @ about) * about).sum(axis=0)
        residuals = (centred - slopes @ about) / np.maximum(1 - leverages, SMALLEST)
        left = float(residuals @ residuals)
        explained = float(centred @ centred) / max(1 - own, SMALLEST) ** 2 - left
        noise = left / explained if explained > left else 1.0
    value = float(values.mean() - slopes @ (known.mean(axis=1) - predictors.mean(axis=1)))
    if n == len(row):
        return Estimate(value, 0.0, n)
    degrees = n - 1
    variance = left * degrees / n**2
    if usual is not None:
        # s̃² = (d₀ s₀² + d s²) / (d₀ + d)
        variance = (PRIOR_DEGREES * usual + degrees * variance) / (PRIOR_DEGREES + degrees)
    return Estimate(value, math.sqrt(variance / n * (1 - n / len(row))), n)
