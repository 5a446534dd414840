"""Gaussian-process regression with a Matérn kernel: the mathematics, on arrays in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import linalg, optimize

from automerge.pareto import Floats

LENGTH_SPREAD = 0.8
NOISE, NOISE_SPREAD = 0.05, 1.5
SIGNAL_SPREAD = 0.5
"""Priors are log-normal: of the length scales of d coordinates about √d/2 (cf. Hvarfner et al.
2024, arXiv:2402.02229), of the noise variance about a twentieth of the data's, of the signal's
about the data's."""
LIMIT, NOISE_LIMIT = 4.0, 9.0
"""How far, in natural logarithms, a hyperparameter may go from its prior's middle."""
ROUGHER, CLEARER = 1.0, 2.0
JITTER = 1e-8
STEPS = 40


@dataclass(frozen=True)
class Hyperparameters:
    """Natural logarithms: length scales, one a group of columns; signal and noise variance."""

    lengths: Floats
    signal: float
    noise: float

    @property
    def vector(self) -> Floats:
        return np.append(self.lengths, [self.signal, self.noise])

    @classmethod
    def of(cls, vector: Floats) -> Hyperparameters:
        return cls(vector[:-2], float(vector[-2]), float(vector[-1]))


def prior(n_groups: int) -> Hyperparameters:
    """The middle of the prior."""
    return Hyperparameters(
        np.full(n_groups, math.log(0.5 * math.sqrt(n_groups))), 0.0, math.log(NOISE)
    )


@dataclass(frozen=True)
class Posterior:
    """A process given data: (n, d) inputs, Cholesky factor of their covariance, and K⁻¹y.

    `fitted` are the posterior means at the inputs, in the data's unit.
    """

    inputs: Floats
    groups: Sequence[int]
    hyperparameters: Hyperparameters
    factor: Floats
    solved: Floats
    centre: float
    scale: float
    fitted: Floats

    def draw(self, known: Floats, new: Floats, normal: Floats) -> tuple[Floats, Floats]:
        """Draw function values, jointly at (b, d) known points, each alone at (k, d) new ones.

        A new point's value is drawn given those of the known points in the same draw. `normal` are
        standard normal numbers, (draws, b + 1). Returns (draws, b) and (draws, k).
        """
        both = np.vstack([known, new])
        weights = self._kernel(both, self.inputs)
        mean = weights @ self.solved
        half = linalg.solve_triangular(self.factor, weights.T, lower=True, check_finite=False)
        b = len(known)
        covariance = self._kernel(known, known) - half[:, :b].T @ half[:, :b]
        covariance[np.diag_indices(b)] += 1e-6 * math.exp(self.hyperparameters.signal)
        root = linalg.cholesky(covariance, lower=True, check_finite=False)
        values = mean[:b] + normal[:, :b] @ root.T
        cross = self._kernel(known, new) - half[:, :b].T @ half[:, b:]
        half_cross = linalg.solve_triangular(root, cross, lower=True, check_finite=False)
        signal = math.exp(self.hyperparameters.signal)
        variance = signal - (half[:, b:] ** 2).sum(axis=0) - (half_cross**2).sum(axis=0)
        given = mean[b:] + normal[:, :b] @ half_cross
        others = given + normal[:, b:] * np.sqrt(np.maximum(variance, 0.0))
        return self.centre + self.scale * values, self.centre + self.scale * others

    def _kernel(self, left: Floats, right: Floats) -> Floats:
        signal = math.exp(self.hyperparameters.signal)
        lengths = np.exp(self.hyperparameters.lengths)[list(self.groups)]
        return signal * matern(distances(left / lengths, right / lengths))


def condition(
    inputs: Floats, values: Floats, groups: Sequence[int], hyperparameters: Hyperparameters
) -> Posterior:
    """The process given data; values are standardised for it. `groups` numbers columns."""
    centre, scale = float(values.mean()), float(values.std()) or 1.0
    lengths = np.exp(hyperparameters.lengths)[list(groups)]
    scaled = inputs / lengths
    covariance = math.exp(hyperparameters.signal) * matern(distances(scaled, scaled))
    noise = math.exp(hyperparameters.noise) + JITTER
    covariance[np.diag_indices(len(inputs))] += noise
    factor = linalg.cholesky(covariance, lower=True, check_finite=False)
    solved = linalg.cho_solve((factor, True), (values - centre) / scale, check_finite=False)
    fitted = values - scale * noise * solved  # K solved, as (K + noise) solved are the values
    return Posterior(inputs, groups, hyperparameters, factor, solved, centre, scale, fitted)


def fit(inputs: Floats, values: Floats, groups: Sequence[int]) -> Hyperparameters:
    """The hyperparameters of largest posterior density (Rasmussen and Williams 2006, eq. 5.8).

    Local searches from the prior's middle, and from a rough function seen clearly: the density has
    another peak where all is noise.
    """
    middle = prior(max(groups) + 1).vector
    rough = middle.copy()
    rough[:-2] -= ROUGHER
    rough[-1] -= CLEARER
    reach = np.full(len(middle), LIMIT)
    reach[-1] = NOISE_LIMIT
    squares = group_squares(inputs, groups)
    standard = (values - values.mean()) / (float(values.std()) or 1.0)
    found = [
        optimize.minimize(
            negative_log_density,
            np.clip(begin, middle - reach, middle + reach),
            args=(squares, standard, middle),
            jac=True,
            method="L-BFGS-B",
            bounds=list(zip(middle - reach, middle + reach, strict=True)),
            options={"maxiter": STEPS},
        )
        for begin in (middle, rough)
    ]
    return Hyperparameters.of(np.asarray(min(found, key=lambda result: result.fun).x))


def negative_log_density(
    vector: Floats, squares: Floats, values: Floats, middle: Floats
) -> tuple[float, Floats]:
    """−log p(values, hyperparameters) up to a constant, and its gradient.

    `squares` are squared differences of the inputs, (groups, n, n).
    """
    here = Hyperparameters.of(vector)
    inverse = np.exp(-2 * here.lengths)
    distance = np.sqrt(np.tensordot(inverse, squares, axes=1))
    signal, noise = math.exp(here.signal), math.exp(here.noise)
    decay = np.exp(-math.sqrt(5) * distance)
    shape = (1 + math.sqrt(5) * distance + 5 / 3 * distance**2) * decay
    n = len(values)
    covariance = signal * shape
    covariance[np.diag_indices(n)] += noise + JITTER
    spread = np.full(len(middle), LENGTH_SPREAD)
    spread[-2:] = SIGNAL_SPREAD, NOISE_SPREAD
    off = (vector - middle) / spread
    factor = linalg.cholesky(covariance, lower=True, check_finite=False)
    solved = linalg.cho_solve((factor, True), values, check_finite=False)
    density = 0.5 * values @ solved + np.log(np.diag(factor)).sum() + 0.5 * off @ off
    inverted = linalg.cho_solve((factor, True), np.eye(n), check_finite=False)
    outer = np.outer(solved, solved) - inverted
    # ∂k/∂log l = s² (5/3)(1 + √5 r) exp(−√5 r) (Δ/l)²
    slope = outer * (5 / 3 * signal * (1 + math.sqrt(5) * distance) * decay)
    gradient = off / spread
    gradient[:-2] -= 0.5 * inverse * np.tensordot(squares, slope, axes=([1, 2], [0, 1]))
    gradient[-2] -= 0.5 * signal * float((outer * shape).sum())
    gradient[-1] -= 0.5 * noise * float(np.trace(outer))
    return float(density), gradient


def matern(distance: Floats) -> Floats:
    """The Matérn correlation with ν = 5/2 (Rasmussen and Williams 2006, eq. 4.17)."""
    scaled = math.sqrt(5) * distance
    decay = np.exp(-scaled)
    correlation = scaled**2  # in place from here on: large arrays cost what they touch
    correlation /= 3
    scaled += 1
    correlation += scaled
    correlation *= decay
    return np.asarray(correlation)


def distances(left: Floats, right: Floats) -> Floats:
    """Euclidean distances, (rows of left, rows of right)."""
    squares = (left**2).sum(1)[:, None] + (right**2).sum(1)[None]
    squares -= 2 * left @ right.T
    np.maximum(squares, 0.0, out=squares)
    return np.asarray(np.sqrt(squares, out=squares))


def group_squares(inputs: Floats, groups: Sequence[int]) -> Floats:
    """Squared differences of rows, summed over the columns of each group: (groups, n, n)."""
    columns = np.asarray(groups)
    return np.stack(
        [
            distances(inputs[:, columns == g], inputs[:, columns == g]) ** 2
            for g in np.unique(columns)
        ]
    )
