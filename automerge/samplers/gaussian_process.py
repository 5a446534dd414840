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
from scipy import linalg

from automerge.arrays import Floats

LENGTH_STD, SIGNAL_STD, TREND_STD, NOISE_STD = 0.8, 0.5, 1.0, 1.5
SIGNAL_MEDIAN = 0.3
NOISE_MEDIAN, MISFIT_MEDIAN = 0.05, 0.003
"""Priors are log-normal: of the length scales of d coordinates about √d/2 (cf. Hvarfner et al.
2024, arXiv:2402.02229), of the Matérn part's variance about a third of the data's, of the trend's
parts about the data's over the whole range, of the noise variance about a twentieth, or much less
where it comes on top of errors that are known. Standard deviations are of natural logarithms."""
CONSTANT = 1.0
"""Variance of the trend's constant: the mean of the data need not be that of the function."""
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
class Columns:
    """What the columns of inputs are.

    Attributes:
        groups: the length scale of each column, by number from 0.
        n_numbers: how many of them, the first ones, are numbers, which the trend is a function of.
        dimension: how many columns vary over their whole range; one that varies less counts for the
            share of its variance.
    """

    groups: Sequence[int]
    n_numbers: int
    dimension: float


@dataclass(frozen=True)
class Hyperparameters:
    """Natural logarithms of length scales, one per group of columns, and of variances.

    The covariance is that of a Matérn process (variance `signal`) and of a trend: a constant, a
    plane (variance `slope` of its slope in each number) and a bowl with the same curvature in each
    (`bowl`). In
    many dimensions, a process alone needs more data than a search has to tell down from up.
    """

    lengths: Floats
    signal: float
    slope: float
    bowl: float
    noise: float

    @property
    def vector(self) -> Floats:
        """All in one array, (groups + 4,), in the order of the fields."""
        return np.append(self.lengths, [self.signal, self.slope, self.bowl, self.noise])

    @classmethod
    def of(cls, vector: Floats) -> Hyperparameters:
        """Invert `vector`."""
        return cls(vector[:-4], *map(float, vector[-4:]))


def prior(columns: Columns, known_errors: bool = False) -> Hyperparameters:
    """Return the median of the prior.

    Args:
        columns: of the inputs.
        known_errors: whether each value's error is known, so that little noise is left.
    """
    dimension = max(columns.dimension, 1.0)
    spread = dimension / 12  # the variances of uniform numbers in [0, 1], summed
    return Hyperparameters(
        lengths=np.full(max(columns.groups) + 1, math.log(0.5 * math.sqrt(dimension))),
        signal=math.log(SIGNAL_MEDIAN),
        slope=-math.log(spread),
        bowl=-2 * math.log(spread),
        noise=math.log(MISFIT_MEDIAN if known_errors else NOISE_MEDIAN),
    )


@dataclass(frozen=True)
class Posterior:
    """A process given n data points.

    Attributes:
        inputs: (n, d), in [0, 1].
        columns: what the d columns are.
        hyperparameters: those of the kernel and of the noise.
        factor: L, the lower Cholesky factor of K + N, N the diagonal of noise, (n, n).
        weights: (K + N)⁻¹ y for standardised values y, (n,).
        centre: mean of the data.
        scale: standard deviation of the data.
        fitted: posterior means at the inputs, in the data's unit, (n,).
    """

    inputs: Floats
    columns: Columns
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
        cross = _kernel(both, self.inputs, self.columns, self.hyperparameters)
        mean = cross @ self.weights  # R&W eq. 2.23
        half = linalg.solve_triangular(self.factor, cross.T, lower=True, check_finite=False)
        b = len(known)
        covariance = _kernel(known, known, self.columns, self.hyperparameters)
        jitter = DRAW_JITTER * covariance.diagonal().max(initial=0.0)
        covariance -= half[:, :b].T @ half[:, :b]  # R&W eq. 2.24
        covariance[np.diag_indices(b)] += jitter
        root = linalg.cholesky(covariance, lower=True, check_finite=False)
        values = mean[:b] + normal[:, :b] @ root.T
        # The same two equations once more, for each new point given the known ones' drawn values:
        # with covariance = R Rᵀ, values - mean = R z, so the correction of the mean is (R⁻¹ c)ᵀ z.
        between = _kernel(known, new, self.columns, self.hyperparameters)
        between -= half[:, :b].T @ half[:, b:]
        half_between = linalg.solve_triangular(root, between, lower=True, check_finite=False)
        variance = _variances(new, self.columns, self.hyperparameters)
        variance -= (half[:, b:] ** 2).sum(axis=0) + (half_between**2).sum(axis=0)
        given = mean[b:] + normal[:, :b] @ half_between
        others = given + normal[:, b:] * np.sqrt(np.maximum(variance, 0.0))
        return self.centre + self.scale * values, self.centre + self.scale * others


def condition(
    inputs: Floats,
    values: Floats,
    columns: Columns,
    hyperparameters: Hyperparameters,
    errors: Floats | None = None,
) -> Posterior:
    """Return the process given data.

    Args:
        inputs: (n, d), in [0, 1].
        values: (n,), in any unit; standardised for the process.
        columns: of the inputs.
        hyperparameters: those `fit` found, for these columns.
        errors: the standard error of each value, (n,), in the same unit; None for none known.
    """
    centre, scale = float(values.mean()), float(values.std()) or 1.0
    covariance = _kernel(inputs, inputs, columns, hyperparameters)
    known = 0.0 if errors is None else (errors / scale) ** 2
    noise = math.exp(hyperparameters.noise) + JITTER + known
    covariance[np.diag_indices(len(inputs))] += noise
    factor = linalg.cholesky(covariance, lower=True, check_finite=False)  # R&W algorithm 2.1
    weights = linalg.cho_solve((factor, True), (values - centre) / scale, check_finite=False)
    fitted = values - scale * noise * weights  # K w = y - N w, as (K + N) w = y
    return Posterior(inputs, columns, hyperparameters, factor, weights, centre, scale, fitted)


def fit(
    inputs: Floats, values: Floats, columns: Columns, errors: Floats | None = None
) -> Hyperparameters:
    """Return the hyperparameters of largest posterior density.

    The density is the marginal likelihood (R&W eq. 5.8) times the prior. Local searches from the
    prior's median, and from a rough function with little noise: the density has another peak where
    all is noise.

    Args:
        inputs: (n, d), in [0, 1].
        values: (n,), in any unit.
        columns: of the inputs.
        errors: the standard error of each value, (n,), in the same unit; None for none known.
    """
    from scipy import optimize

    median = prior(columns, errors is not None).vector
    rough = median.copy()
    rough[:-4] -= ROUGH_LENGTH_SHIFT
    rough[-1] -= ROUGH_NOISE_SHIFT
    reach = np.full(len(median), MAX_SHIFT)
    reach[-1] = MAX_NOISE_SHIFT
    pairs = Pairs.of(inputs, columns)
    scale = float(values.std()) or 1.0
    standard = (values - values.mean()) / scale
    known = np.zeros(len(values)) if errors is None else (errors / scale) ** 2
    optima = [
        optimize.minimize(
            negative_log_density,
            np.clip(start, median - reach, median + reach),
            args=(pairs, standard, known, median),
            jac=True,
            method="L-BFGS-B",
            bounds=list(zip(median - reach, median + reach, strict=True)),
            options={"maxiter": MAX_ITERATIONS},
        )
        for start in (median, rough)
    ]
    return Hyperparameters.of(np.asarray(min(optima, key=lambda optimum: optimum.fun).x))


def negative_log_density(
    vector: Floats, pairs: Pairs, values: Floats, known: Floats, median: Floats
) -> tuple[float, Floats]:
    """Return −log p(values, hyperparameters) up to a constant, and its gradient.

    Args:
        vector: hyperparameters, (groups + 4,).
        pairs: what the covariance needs of the inputs.
        values: standardised, (n,).
        known: variances of the values' known errors, (n,).
        median: of the prior, (groups + 4,).
    """
    here = Hyperparameters.of(vector)
    inverse = np.exp(-2 * here.lengths)
    distance = np.sqrt(np.tensordot(inverse, pairs.squares, axes=1))
    signal, noise = math.exp(here.signal), math.exp(here.noise)
    decay = np.exp(-math.sqrt(5) * distance)
    shape = (1 + math.sqrt(5) * distance + 5 / 3 * distance**2) * decay  # R&W eq. 4.17
    n = len(values)
    plane, bowl = math.exp(here.slope) * pairs.products, math.exp(here.bowl) * pairs.bowls
    covariance = signal * shape + CONSTANT + plane + bowl
    covariance[np.diag_indices(n)] += noise + JITTER + known
    std = np.full(len(median), LENGTH_STD)
    std[-4:] = SIGNAL_STD, TREND_STD, TREND_STD, NOISE_STD
    off = (vector - median) / std
    factor = linalg.cholesky(covariance, lower=True, check_finite=False)
    weights = linalg.cho_solve((factor, True), values, check_finite=False)
    # R&W eq. 5.8, ½ yᵀK⁻¹y + ½ log|K|, and the prior's ½ ((θ - median) / std)².
    density = 0.5 * values @ weights + np.log(np.diag(factor)).sum() + 0.5 * off @ off
    inverted = linalg.cho_solve((factor, True), np.eye(n), check_finite=False)
    outer = np.outer(weights, weights) - inverted
    # R&W eq. 5.9, −½ tr((ααᵀ − K⁻¹) ∂K/∂θ), with
    # ∂k/∂log l = s² (5/3)(1 + √5 r) exp(−√5 r) (Δ/l)², ∂K/∂log s² = s² k and ∂K/∂log σ² = σ² I;
    # the trend's parts are proportional to their variances too.
    slope = outer * (5 / 3 * signal * (1 + math.sqrt(5) * distance) * decay)
    gradient = off / std
    gradient[:-4] -= 0.5 * inverse * np.tensordot(pairs.squares, slope, axes=([1, 2], [0, 1]))
    gradient[-4] -= 0.5 * signal * float((outer * shape).sum())
    gradient[-3] -= 0.5 * float((outer * plane).sum())
    gradient[-2] -= 0.5 * float((outer * bowl).sum())
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


def _kernel(left: Floats, right: Floats, columns: Columns, here: Hyperparameters) -> Floats:
    """Return covariances of function values, (rows of left, rows of right)."""
    lengths = np.exp(here.lengths)[list(columns.groups)]
    covariance = math.exp(here.signal) * _matern(_distances(left / lengths, right / lengths))
    numbers, others = _centred(left, columns), _centred(right, columns)
    covariance += CONSTANT + math.exp(here.slope) * (numbers @ others.T)
    covariance += math.exp(here.bowl) * np.outer(_heights(numbers), _heights(others))
    return np.asarray(covariance)


def _variances(points: Floats, columns: Columns, here: Hyperparameters) -> Floats:
    """Return the prior variances of function values, (rows,): the diagonal of `_kernel`."""
    height = _heights(_centred(points, columns))
    trend = CONSTANT + math.exp(here.slope) * height + math.exp(here.bowl) * height**2
    return np.asarray(math.exp(here.signal) + trend)


def _centred(points: Floats, columns: Columns) -> Floats:
    """Return the numbers among the columns, as differences from the middle."""
    return points[:, : columns.n_numbers] - 0.5


def _heights(numbers: Floats) -> Floats:
    """Return the height of the bowl, the squared distance from the middle: (rows,)."""
    return np.asarray((numbers**2).sum(axis=1))


@dataclass(frozen=True)
class Pairs:
    """What covariances need of all pairs of n inputs, whatever the hyperparameters.

    Attributes:
        squares: squared differences, summed over each group's columns, (groups, n, n).
        products: inner products of the numbers, measured from the middle, (n, n).
        bowls: products of their bowls' heights, (n, n).
    """

    squares: Floats
    products: Floats
    bowls: Floats

    @classmethod
    def of(cls, inputs: Floats, columns: Columns) -> Pairs:
        """Compute them from inputs (n, d)."""
        groups = np.asarray(columns.groups)
        of_group = [inputs[:, groups == group] for group in np.unique(groups)]
        numbers = _centred(inputs, columns)
        heights = _heights(numbers)
        return cls(
            np.stack([_distances(these, these) ** 2 for these in of_group]),
            numbers @ numbers.T,
            np.outer(heights, heights),
        )
