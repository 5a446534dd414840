"""Quadratic functions of many coordinates, fitted to few noisy values: the mathematics."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import linalg

from automerge.arrays import Floats

CURVATURES = (0.1, 0.3, 1.0, 3.0)
"""Prior size of the quadratic part beside that of the linear one, tried in turn."""
NOISES = (0.001, 0.01, 0.1, 1.0)
"""Prior variance of the noise beside that of the linear part, tried in turn."""
CONSTANT = 10.0
"""Prior variance of the constant beside that of the linear part."""


@dataclass(frozen=True)
class Quadratic:
    """c + bᵀx + xᵀAx, as a ridge regression on n points.

    Attributes:
        inputs: (n, d).
        weights: of the points, (n,).
        curvature: of the prior.
        centre: of the values.
        quality: R² of predictions of each value from all others; 1 is perfect, 0 and less says that
            the mean of the values predicts as well.
    """

    inputs: Floats
    weights: Floats
    curvature: float
    centre: float
    quality: float

    def __call__(self, points: Floats) -> Floats:
        """Return the function's values at points (k, d): (k,)."""
        return self.centre + _kernel(points, self.inputs, self.curvature) @ self.weights


def fit(inputs: Floats, values: Floats, errors: Floats | None = None) -> Quadratic:
    """Fit a quadratic function, with the ridge that predicts left-out values best.

    All (d + 1)(d + 2) / 2 coefficients are fitted, whether or not there are as many values: the
    kernel c + xᵀx' + κ (xᵀx')² spans them.

    Args:
        inputs: (n, d), of order 1 about 0.
        values: (n,).
        errors: the standard error of each value, (n,); None where they are alike.
    """
    n = len(values)
    relative = np.ones(n)
    if errors is not None and (mean := float((errors**2).mean())) > 0:
        relative = np.maximum(errors**2 / mean, 1e-3)
    centre = float(values.mean())
    total = float(((values - centre) ** 2).sum()) or 1.0
    found: list[Quadratic] = []
    for curvature, noise in product(CURVATURES, NOISES):
        covariance = _kernel(inputs, inputs, curvature)
        ridge = noise * max(float(np.trace(covariance)) / n, 1e-12)
        covariance[np.diag_indices(n)] += ridge * relative
        inverse = linalg.cho_solve(
            (linalg.cholesky(covariance, lower=True, check_finite=False), True), np.eye(n)
        )
        weights = inverse @ (values - centre)
        # Without point i, its value is missed by [K⁻¹y]_i / [K⁻¹]_ii: Rasmussen and Williams 2006,
        # eq. 5.12.
        missed = weights / np.diag(inverse)
        quality = 1 - float((missed**2).sum()) / total
        found.append(Quadratic(inputs, weights, curvature, centre, quality))
    return max(found, key=lambda quadratic: quadratic.quality)


def _kernel(left: Floats, right: Floats, curvature: float) -> Floats:
    inner = left @ right.T
    return np.asarray(CONSTANT + inner + curvature * inner**2)
