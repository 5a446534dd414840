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
FLAT = 0.1
"""The least steepness of a coordinate, beside the typical one, that makes it longer."""


@dataclass(frozen=True)
class Surrogate:
    """What slopes at some points say of a function, up to a constant.

    `points` (n, d) are divided by the `lengths`, (d,); `weights` (n, s) belong to the coordinates
    in `smooth`, (s,), those that slopes are with respect to.
    """

    points: Floats
    smooth: Indices
    weights: Floats
    lengths: Floats

    def value(self, at: Floats) -> Floats:
        """Return the posterior mean up to a constant, (k,), at points (k, d)."""
        kernel, d = self._kernel(at)
        return np.asarray(np.einsum("kn,kns,ns->k", kernel, d, self.weights))

    def slope(self, at: Floats) -> Floats:
        """Return the posterior mean of the slopes, (k, d), at points (k, d)."""
        kernel, d = self._kernel(at)
        along = np.einsum("kns,ns->kn", d, self.weights)
        whole = (at / self.lengths)[:, None] - self.points[None]
        found = -np.einsum("kn,kn,knd->kd", kernel, along, whole)
        found[:, self.smooth] += kernel @ self.weights
        return np.asarray(found / self.lengths)

    def _kernel(self, at: Floats) -> tuple[Floats, Floats]:
        d = (at / self.lengths)[:, None] - self.points[None]
        return np.exp(-(d**2).sum(axis=2) / 2), d[:, :, self.smooth]


def relative_lengths(slopes: Floats, smooth: Indices, d: int) -> Floats:
    """Return how far each coordinate reaches beside the others, (d,), of geometric mean 1.

    A coordinate's length is one over the root of its steepness. Then the steepest descent within a
    ball moves all coordinates alike, as Adam does (Kingma and Ba 2015, arXiv:1412.6980), not only
    the few steepest: in a merge many weights matter a little each.

    Args:
        slopes: of all objectives at all points, (n, objectives, s).
        smooth: the coordinates that they are with respect to, (s,).
        d: how many coordinates there are.
    """
    sizes = np.linalg.norm(slopes, axis=2, keepdims=True)
    alike = slopes / np.where(sizes > 0, sizes, 1.0)
    steepness = np.sqrt((alike**2).mean(axis=(0, 1)))
    floor = FLAT * float(np.sqrt((steepness**2).mean()))
    found = np.ones(d)
    if floor > 0:
        logs = -0.5 * np.log(np.maximum(steepness, floor))
        found[smooth] = np.exp(logs - logs.mean())
    return found


def fit(
    points: Floats, slopes: Floats, smooth: Indices, lengths: Floats, noise: float, noisier: Floats
) -> Surrogate:
    """Return the posterior of a function whose slopes were seen.

    Args:
        points: where, (n, d).
        slopes: with respect to the coordinates in `smooth`, (n, s).
        smooth: which coordinates these are, (s,).
        lengths: the kernel's length scales, (d,).
        noise: variance of the noise of a slope times its length, relative to that of the slope.
        noisier: what it is multiplied by at each point, (n,).
    """
    factor, targets = _factor(points, slopes, smooth, lengths, noise * noisier)
    weights = linalg.cho_solve((factor, True), targets).reshape(slopes.shape)
    return Surrogate(points / lengths, smooth, weights, lengths)


def best_hyperparameters(
    points: Floats, targets: Sequence[Floats], smooth: Indices, relative: Floats, noisier: Floats
) -> list[tuple[float, float]]:
    """Return the factor of the relative lengths, and the noise, of the greatest marginal likelihood
    for each function.

    The signal's variance is that which maximises it given the others.
    """
    unit = math.sqrt(points.shape[1])
    found = [(-math.inf, (2 * unit, 0.1))] * len(targets)
    for length in (factor * unit for factor in LENGTHS):
        for noise in NOISES:
            for j, slopes in enumerate(targets):
                value = likelihood(points, slopes, smooth, length * relative, noise * noisier)
                if value > found[j][0]:
                    found[j] = (value, (length, noise))
    return [best for _, best in found]


def likelihood(
    points: Floats, slopes: Floats, smooth: Indices, lengths: Floats, noise: Floats
) -> float:
    """Return the log marginal likelihood of slopes, up to a constant.

    Args:
        noise: at each point, (n,); the others as in `fit`.
    """
    factor, targets = _factor(points, slopes, smooth, lengths, noise)
    white = linalg.solve_triangular(factor, targets, lower=True)
    n, energy = len(targets), float(white @ white)
    if energy <= 0:
        return -math.inf
    stretched = len(points) * float(np.log(lengths[smooth]).sum())
    return -0.5 * n * math.log(energy / n) - float(np.log(np.diag(factor)).sum()) + stretched


def _factor(
    points: Floats, slopes: Floats, smooth: Indices, lengths: Floats, noise: Floats
) -> tuple[Floats, Floats]:
    """The Cholesky factor of the slopes' covariance, (ns, ns), and the slopes in unit length."""
    scaled = points / lengths
    d = scaled[:, None] - scaled[None]
    kernel = np.exp(-(d**2).sum(axis=2) / 2)
    d = d[:, :, smooth]
    n, s = slopes.shape
    blocks = -kernel[:, :, None, None] * d[:, :, :, None] * d[:, :, None, :]
    blocks[:, :, range(s), range(s)] += kernel[:, :, None]
    covariance = blocks.transpose(0, 2, 1, 3).reshape(n * s, n * s)
    covariance[range(n * s), range(n * s)] += np.repeat(noise, s)
    return linalg.cholesky(covariance, lower=True), (slopes * lengths[smooth]).reshape(-1)
