"""Gaussian-process regression with a Matérn kernel: the mathematics, on arrays in [0, 1].

Our own 200 lines, as BoTorch would bring torch into the search side, which runs without it, and
scikit-learn has neither priors of the hyperparameters nor length scales shared by columns.

"R&W" is Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import linalg, optimize

from automerge.arrays import Floats

LENGTH_STD, SIGNAL_STD = 0.8, 0.5
NOISE_MEDIAN, NOISE_STD = 0.05, 1.5
"""Priors are log-normal: of the length scales of d coordinates about √d/2 (cf. Hvarfner et al.
2024, arXiv:2402.02229), of the noise variance about a twentieth of the data's, of the signal's
about the data's. Standard deviations are of the natural logarithms."""
MAX_SHIFT, MAX_NOISE_SHIFT = 4.0, 9.0
"""How far, in natural logarithms, a hyperparameter may go from its prior's median."""
ROUGH_LENGTH_SHIFT, ROUGH_NOISE_SHIFT = 1.0, 2.0
"""How far below the prior's median the second search begins: a rough function, little noise."""
JITTER = 1e-8
"""Added to the noise variance, so that copies of a point leave the covariance definite."""
DRAW_JITTER = 1e-6
"""The same for draws without noise, as a share of the signal's variance."""
MAX_ITERATIONS = 40
"""Of L-BFGS-B, per search for hyperparameters."""


@dataclass(frozen=True)
class Hyperparameters:
    """Natural logarithms: length scales, one per group of columns; signal and noise variance."""

    lengths: Floats
    signal: float
    noise: float

    @property
    def vector(self) -> Floats:
        """All in one array, (groups + 2,): lengths, signal, noise."""
        return np.append(self.lengths, [self.signal, self.noise])

    @classmethod
    def of(cls, vector: Floats) -> Hyperparameters:
        """Invert `vector`."""
        return cls(vector[:-2], float(vector[-2]), float(vector[-1]))


def prior(n_groups: int) -> Hyperparameters:
    """Return the median of the prior for `n_groups` length scales."""
    return Hyperparameters(
        np.full(n_groups, math.log(0.5 * math.sqrt(n_groups))), 0.0, math.log(NOISE_MEDIAN)
    )


@dataclass(frozen=True)
class Posterior:
    """A process given n data points.

    Attributes:
        inputs: (n, d), in [0, 1].
        groups: the length scale of each of the d columns, by number.
        hyperparameters: those of the kernel and of the noise.
        factor: L, the lower Cholesky factor of K + σ²I, (n, n).
        weights: (K + σ²I)⁻¹ y for standardised values y, (n,).
        centre: mean of the data.
        scale: standard deviation of the data.
        fitted: posterior means at the inputs, in the data's unit, (n,).
    """

    inputs: Floats
    groups: Sequence[int]
    hyperparameters: Hyperparameters
    factor: Floats
    weights: Floats
    centre: float
    scale: float
    fitted: Floats

    def draw(self, known: Floats, new: Floats, normal: Floats) -> tuple[Floats, Floats]:
        """Draw function values, jointly at the known points and each alone at the new ones.

        A new point's value is drawn given those of the known points in the same draw, so that the
        cost grows with k and not with its cube.

        Args:
            known: (b, d) points.
            new: (k, d) points.
            normal: standard normal numbers, (draws, b + 1); the last serves every new point.

        Returns:
            Values in the data's unit, (draws, b) and (draws, k).
        """
        both = np.vstack([known, new])
        cross = self._kernel(both, self.inputs)
        mean = cross @ self.weights  # R&W eq. 2.23
        half = linalg.solve_triangular(self.factor, cross.T, lower=True, check_finite=False)
        b = len(known)
        covariance = self._kernel(known, known) - half[:, :b].T @ half[:, :b]  # R&W eq. 2.24
        covariance[np.diag_indices(b)] += DRAW_JITTER * math.exp(self.hyperparameters.signal)
        root = linalg.cholesky(covariance, lower=True, check_finite=False)
        values = mean[:b] + normal[:, :b] @ root.T
        # The same two equations once more, for each new point given the known ones' drawn values:
        # with covariance = R Rᵀ, values - mean = R z, so the correction of the mean is (R⁻¹ c)ᵀ z.
        between = self._kernel(known, new) - half[:, :b].T @ half[:, b:]
        half_between = linalg.solve_triangular(root, between, lower=True, check_finite=False)
        signal = math.exp(self.hyperparameters.signal)
        variance = signal - (half[:, b:] ** 2).sum(axis=0) - (half_between**2).sum(axis=0)
        given = mean[b:] + normal[:, :b] @ half_between
        others = given + normal[:, b:] * np.sqrt(np.maximum(variance, 0.0))
        return self.centre + self.scale * values, self.centre + self.scale * others

    def _kernel(self, left: Floats, right: Floats) -> Floats:
        signal = math.exp(self.hyperparameters.signal)
        lengths = np.exp(self.hyperparameters.lengths)[list(self.groups)]
        return signal * _matern(_distances(left / lengths, right / lengths))


def condition(
    inputs: Floats, values: Floats, groups: Sequence[int], hyperparameters: Hyperparameters
) -> Posterior:
    """Return the process given data.

    Args:
        inputs: (n, d), in [0, 1].
        values: (n,), in any unit; standardised for the process.
        groups: the length scale of each column, by number.
        hyperparameters: those `fit` found, for these groups.
    """
    centre, scale = float(values.mean()), float(values.std()) or 1.0
    lengths = np.exp(hyperparameters.lengths)[list(groups)]
    scaled = inputs / lengths
    covariance = math.exp(hyperparameters.signal) * _matern(_distances(scaled, scaled))
    noise = math.exp(hyperparameters.noise) + JITTER
    covariance[np.diag_indices(len(inputs))] += noise
    factor = linalg.cholesky(covariance, lower=True, check_finite=False)  # R&W algorithm 2.1
    weights = linalg.cho_solve((factor, True), (values - centre) / scale, check_finite=False)
    fitted = values - scale * noise * weights  # K w = y - σ² w, as (K + σ²I) w = y
    return Posterior(inputs, groups, hyperparameters, factor, weights, centre, scale, fitted)


def fit(inputs: Floats, values: Floats, groups: Sequence[int]) -> Hyperparameters:
    """Return the hyperparameters of largest posterior density.

    The density is the marginal likelihood (R&W eq. 5.8) times the prior. Local searches from the
    prior's median, and from a rough function with little noise: the density has another peak where
    all is noise.

    Args:
        inputs: (n, d), in [0, 1].
        values: (n,), in any unit.
        groups: the length scale of each column, by number from 0.
    """
    median = prior(max(groups) + 1).vector
    rough = median.copy()
    rough[:-2] -= ROUGH_LENGTH_SHIFT
    rough[-1] -= ROUGH_NOISE_SHIFT
    reach = np.full(len(median), MAX_SHIFT)
    reach[-1] = MAX_NOISE_SHIFT
    squares = group_squares(inputs, groups)
    standard = (values - values.mean()) / (float(values.std()) or 1.0)
    optima = [
        optimize.minimize(
            negative_log_density,
            np.clip(start, median - reach, median + reach),
            args=(squares, standard, median),
            jac=True,
            method="L-BFGS-B",
            bounds=list(zip(median - reach, median + reach, strict=True)),
            options={"maxiter": MAX_ITERATIONS},
        )
        for start in (median, rough)
    ]
    return Hyperparameters.of(np.asarray(min(optima, key=lambda optimum: optimum.fun).x))


def negative_log_density(
    vector: Floats, squares: Floats, values: Floats, median: Floats
) -> tuple[float, Floats]:
    """Return −log p(values, hyperparameters) up to a constant, and its gradient.

    Args:
        vector: hyperparameters, (groups + 2,).
        squares: squared differences of the inputs, (groups, n, n).
        values: standardised, (n,).
        median: of the prior, (groups + 2,).
    """
    here = Hyperparameters.of(vector)
    inverse = np.exp(-2 * here.lengths)
    distance = np.sqrt(np.tensordot(inverse, squares, axes=1))
    signal, noise = math.exp(here.signal), math.exp(here.noise)
    decay = np.exp(-math.sqrt(5) * distance)
    shape = (1 + math.sqrt(5) * distance + 5 / 3 * distance**2) * decay  # R&W eq. 4.17
    n = len(values)
    covariance = signal * shape
    covariance[np.diag_indices(n)] += noise + JITTER
    std = np.full(len(median), LENGTH_STD)
    std[-2:] = SIGNAL_STD, NOISE_STD
    off = (vector - median) / std
    factor = linalg.cholesky(covariance, lower=True, check_finite=False)
    weights = linalg.cho_solve((factor, True), values, check_finite=False)
    # R&W eq. 5.8, ½ yᵀK⁻¹y + ½ log|K|, and the prior's ½ ((θ - median) / std)².
    density = 0.5 * values @ weights + np.log(np.diag(factor)).sum() + 0.5 * off @ off
    inverted = linalg.cho_solve((factor, True), np.eye(n), check_finite=False)
    outer = np.outer(weights, weights) - inverted
    # R&W eq. 5.9, −½ tr((ααᵀ − K⁻¹) ∂K/∂θ), with
    # ∂k/∂log l = s² (5/3)(1 + √5 r) exp(−√5 r) (Δ/l)², ∂K/∂log s² = s² k and ∂K/∂log σ² = σ² I.
    slope = outer * (5 / 3 * signal * (1 + math.sqrt(5) * distance) * decay)
    gradient = off / std
    gradient[:-2] -= 0.5 * inverse * np.tensordot(squares, slope, axes=([1, 2], [0, 1]))
    gradient[-2] -= 0.5 * signal * float((outer * shape).sum())
    gradient[-1] -= 0.5 * noise * float(np.trace(outer))
    return float(density), gradient


def _matern(distance: Floats) -> Floats:
    """Return the Matérn correlation with ν = 5/2, (1 + √5 r + 5r²/3) exp(−√5 r): R&W eq. 4.17."""
    scaled = math.sqrt(5) * distance
    decay = np.exp(-scaled)
    correlation = scaled**2  # in place from here on: large arrays cost what they touch
    correlation /= 3
    scaled += 1
    correlation += scaled
    correlation *= decay
    return np.asarray(correlation)


def _distances(left: Floats, right: Floats) -> Floats:
    """Return Euclidean distances, (rows of left, rows of right)."""
    squares = (left**2).sum(1)[:, None] + (right**2).sum(1)[None]
    squares -= 2 * left @ right.T
    np.maximum(squares, 0.0, out=squares)
    return np.asarray(np.sqrt(squares, out=squares))


def group_squares(inputs: Floats, groups: Sequence[int]) -> Floats:
    """Return squared differences of rows, summed over each group's columns: (groups, n, n)."""
    columns = np.asarray(groups)
    return np.stack(
        [
            _distances(inputs[:, columns == g], inputs[:, columns == g]) ** 2
            for g in np.unique(columns)
        ]
    )
