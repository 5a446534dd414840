"""How a knob's values over components and depth deviate from its common value.

The values of a grid, components × depth, are orthogonal modes times coefficients. The first mode is
constant, and its coefficient the common value. The others have mean 0 and mean square 1 over the
grid, so each coefficient is the standard deviation that its mode adds to the values, and as many
coefficients as values say the same as the values do. A prior under which coefficients are small,
and the smaller the finer their mode, is a hierarchical one: every value is near the common one.
"""

from __future__ import annotations

import math

import numpy as np

from automerge.arrays import Floats

INTERACTION = 0.5
"""Prior size of a mode in which components differ in how they vary over depth, relative to that of
the same variation in all components."""


def contrasts(n: int) -> Floats:
    """Return the modes of n components, one per column: (n, n).

    Column i > 0 sets component i against the mean of those before it (Helmert's contrasts).
    """
    modes = np.zeros((n, n))
    modes[:, 0] = 1.0
    for i in range(1, n):
        unit = math.sqrt(n / (i * (i + 1)))
        modes[:i, i] = -unit
        modes[i, i] = i * unit
    return modes


def waves(n: int) -> Floats:
    """Return the modes of n values over depth, one per column: (n, n).

    Column j > 0 is a cosine with j half-periods (DCT-II), positive at the last layer. Column 1 is a
    trend from the first layer to the last, column 2 tells the ends from the middle.
    """
    to_end = n - 0.5 - np.arange(n)
    modes = math.sqrt(2) * np.cos(math.pi / n * np.outer(to_end, np.arange(n)))
    modes[:, 0] = 1.0
    return modes


def scales(n_components: int, n_depths: int, deviation: float) -> Floats:
    """Return the prior standard deviations of the modes' coefficients: (components, depths).

    The wave of j half-periods has 1/j of the first one's. The variance of a value about the common
    one, its mean over the grid, is `deviation` squared whatever the size of the grid: a finer one
    spreads it over more modes and makes no merge more extreme. That of the common value, [0, 0], is
    not said here, and 0.
    """
    waves_alike = np.array([0.0, *(1 / j for j in range(1, n_depths))])
    sizes = np.empty((n_components, n_depths))
    sizes[:] = INTERACTION * waves_alike
    sizes[:, 0] = 1.0
    sizes[0] = waves_alike
    total = float(np.sqrt((sizes**2).sum()))
    return sizes * (deviation / total if total else 0.0)


def values(coefficients: Floats) -> Floats:
    """Return the values of a grid, (components, depths), from the coefficients of its modes."""
    n_components, n_depths = coefficients.shape
    return np.asarray(contrasts(n_components) @ coefficients @ waves(n_depths).T)


def coefficients(values: Floats) -> Floats:
    """Invert `values`."""
    return pulled_back(values) / values.size


def pulled_back(slopes: Floats) -> Floats:
    """Return the slopes in the coefficients, (components, depths), given those in the values."""
    n_components, n_depths = slopes.shape
    return np.asarray(contrasts(n_components).T @ slopes @ waves(n_depths))
