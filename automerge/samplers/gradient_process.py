"""Gaussian-process regression on slopes alone: the mathematics, in coordinates of equal scale.

Slopes of a loss say how it bends wherever they were taken, whatever items it was taken on; losses
themselves carry the luck of their items. So the process learns from slopes, and predicts losses up
to a constant (Solak et al. 2003, Derivative observations in Gaussian process models).

With the kernel k(x, y) = exp(−|x − y|² / 2) and d = x − y:
cov(f(x), ∂ᵦf(y)) = k dᵦ and cov(∂ₐf(x), ∂ᵦf(y)) = k (δₐᵦ − dₐ dᵦ).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from automerge.arrays import Floats, Indices

LENGTHS = (0.5, 1.0, 2.0, 4.0)
NOISES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""What hyperparameters are chosen from: length scales, times √d, as far apart as d coordinates move
points; and the variance of a slope's noise beside that of the slope itself."""


@dataclass(frozen=True)
class Surrogate:
    """What slopes at some points say of a function, up to a constant.

    `points` (n, d) are divided by the `length`; `weights` (n, s) belong to the coordinates in
    `smooth`, (s,), those that slopes are with respect to.
    """

    points: Floats
    smooth: Indices
    weights: Floats
    length: float

    def value(self, at: Floats) -> Floats:
        """Return the posterior mean up to a constant, (k,), at points (k, d)."""
        kernel, d = self._kernel(at)
        return np.asarray(np.einsum("kn,kns,ns->k", kernel, d, self.weights))

    def slope(self, at: Floats) -> Floats:
        """Return the posterior mean of the slopes, (k, d), at points (k, d)."""
        kernel, d = self._kernel(at)
        along = np.einsum("kns,ns->kn", d, self.weights)
        whole = (at / self.length)[:, None] - self.points[None]
        found = -np.einsum("kn,kn,knd->kd", kernel, along, whole)
        found[:, self.smooth] += kernel @ self.weights
        return np.asarray(found / self.length)

    def _kernel(self, at: Floats) -> tuple[Floats, Floats]:
        d = (at / self.length)[:, None] - self.points[None]
        return np.exp(-(d**2).sum(axis=2) / 2), d[:, :, self.smooth]


def fit(
    points: Floats, slopes: Floats, smooth: Indices, length: float, noise: float, noisier: Floats
) -> Surrogate:
    """Return the posterior of a function whose slopes were seen.

    Args:
        points: where, (n, d).
        slopes: with respect to the coordinates in `smooth`, (n, s).
        smooth: which coordinates these are, (s,).
        length: the kernel's length scale.
        noise: variance of a slope's noise, relative to the variance of slopes.
        noisier: what it is multiplied by at each point, (n,).
    """
    factor, targets = _factor(points, slopes, smooth, length, noise * noisier)
    weights = linalg.cho_solve((factor, True), targets).reshape(slopes.shape)
    return Surrogate(points / length, smooth, weights, length)


def best_hyperparameters(
    points: Floats, targets: Sequence[Floats], smooth: Indices, noisier: Floats
) -> list[tuple[float, float]]:
    """Return the length and noise of the greatest marginal likelihood for each function.

    The signal's variance is that which maximises it given the others.
    """
    unit = math.sqrt(points.shape[1])
    found = [(-math.inf, (2 * unit, 0.1))] * len(targets)
    for length in (factor * unit for factor in LENGTHS):
        for noise in NOISES:
            for j, slopes in enumerate(targets):
                value = _likelihood(points, slopes, smooth, length, noise * noisier)
                if value > found[j][0]:
                    found[j] = (value, (length, noise))
    return [best for _, best in found]


def _likelihood(
    points: Floats, slopes: Floats, smooth: Indices, length: float, noise: Floats
) -> float:
    factor, targets = _factor(points, slopes, smooth, length, noise)
    white = linalg.solve_triangular(factor, targets, lower=True)
    n, energy = len(targets), float(white @ white)
    if energy <= 0:
        return -math.inf
    return -0.5 * n * math.log(energy / n) - float(np.log(np.diag(factor)).sum())


def _factor(
    points: Floats, slopes: Floats, smooth: Indices, length: float, noise: Floats
) -> tuple[Floats, Floats]:
    """The Cholesky factor of the slopes' covariance, (ns, ns), and the slopes in unit length."""
    scaled = points / length
    d = scaled[:, None] - scaled[None]
    kernel = np.exp(-(d**2).sum(axis=2) / 2)
    d = d[:, :, smooth]
    n, s = slopes.shape
    blocks = -kernel[:, :, None, None] * d[:, :, :, None] * d[:, :, None, :]
    blocks[:, :, range(s), range(s)] += kernel[:, :, None]
    covariance = blocks.transpose(0, 2, 1, 3).reshape(n * s, n * s)
    covariance[range(n * s), range(n * s)] += np.repeat(noise, s)
    return linalg.cholesky(covariance, lower=True), (slopes * length).reshape(-1)
