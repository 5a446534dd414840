"""Parameters of a search space, their priors, and their coordinates on the real line.

A number in [low, high] is a logistic function of a coordinate z on the whole real line:
u = 1 / (1 + exp(-4 s z)), value = low + u (high - low), where s is the standard deviation of u's
prior relative to that of a uniform one. At z = 0 the value is the middle and du/dz = s, so a step
of 0.1 is a tenth of the range for a number whose prior is uniform, and as likely a step for any
other. The map is smooth and monotone: it has no kinks for a covariance matrix to learn, and unlike
clamping and folding it sends no region to one value. u is rounded to six decimals, so that a bound
is reached, and parameters survive text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from automerge.arrays import Floats
from automerge.recipe import canonical

STEEPNESS = 4.0
DIGITS = 6
BOUND_FRACTION = 1e-7
"""Stands for 0, whose coordinate is infinite; it rounds to the bound."""
UNIFORM_SCALE = 1 / math.sqrt(12)
"""Standard deviation of the uniform distribution on [0, 1]."""


def prior_fractions(uniform: Floats, scales: ArrayLike) -> Floats:
    """Turn uniform draws in [0, 1] into draws of the priors of fractions, of the same shape.

    The prior is uniform for a scale of `UNIFORM_SCALE` or more, else normal about the middle,
    truncated to [0, 1]. The map is the quantile function, hence monotone.

    Args:
        uniform: any shape (..., n).
        scales: standard deviations, (n,) or one number.
    """
    from scipy import special

    scales = np.broadcast_to(np.asarray(scales, dtype=np.float64), uniform.shape)
    below = special.ndtr(-0.5 / scales)
    normal = 0.5 + scales * special.ndtri(below + uniform * (1 - 2 * below))
    return np.where(scales < UNIFORM_SCALE, np.clip(normal, 0.0, 1.0), uniform)


def prior_shares(fractions: Floats, scales: ArrayLike) -> Floats:
    """Invert `prior_fractions`: the share of the prior that lies below each fraction."""
    from scipy import special

    scales = np.broadcast_to(np.asarray(scales, dtype=np.float64), fractions.shape)
    below = special.ndtr(-0.5 / scales)
    normal = (special.ndtr((fractions - 0.5) / scales) - below) / (1 - 2 * below)
    return np.where(scales < UNIFORM_SCALE, np.clip(normal, 0.0, 1.0), fractions)


@dataclass(frozen=True)
class FloatParameter:
    """A number in [low, high], bounds of six digits.

    Attributes:
        name: unique within the space.
        role: its name without the method.
        low: the least value.
        high: the largest value.
        scale: standard deviation of its prior, as a fraction of the range (see `prior_fractions`).
        smooth: whether the merged weights have a slope in it.
    """

    name: str
    role: str
    low: float
    high: float
    scale: float = UNIFORM_SCALE
    smooth: bool = True

    def at_fraction(self, fraction: float) -> float:
        """Return the value at a fraction in [0, 1] of the way from low to high."""
        fraction = round(fraction, DIGITS)
        return canonical((1 - fraction) * self.low + fraction * self.high)

    def fraction(self, value: object) -> float:
        """Invert `at_fraction`."""
        return (self.check(value) - self.low) / (self.high - self.low)

    def decode(self, coordinate: float) -> float:
        """Return the value at a coordinate."""
        return self.at_fraction(0.5 * (1 + math.tanh(self._steepness / 2 * coordinate)))

    def encode(self, value: object) -> float:
        """Return the coordinate of a value; that of a bound is finite, ±4 for a uniform prior."""
        fraction = min(max(self.fraction(value), BOUND_FRACTION), 1 - BOUND_FRACTION)
        return math.log(fraction / (1 - fraction)) / self._steepness

    @property
    def _steepness(self) -> float:
        """4 du/dz at the middle."""
        return STEEPNESS * self.scale / UNIFORM_SCALE

    def check(self, value: object) -> float:
        """Return the value with six digits.

        Raises:
            ValueError: it is not a number within the bounds.
        """
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{self.name} is a number; got {value!r}")
        if not self.low <= value <= self.high:
            raise ValueError(
                f"{self.name} must lie in [{self.low:g}, {self.high:g}]; got {value!r}"
            )
        return canonical(float(value))


@dataclass(frozen=True)
class BooleanParameter:
    """A switch: true where its coordinate is not negative."""

    name: str
    role: str

    @property
    def scale(self) -> float:
        """Standard deviation of its prior, as a fraction of [0, 1]."""
        return UNIFORM_SCALE

    @property
    def smooth(self) -> bool:
        """A switch has no slope."""
        return False

    def at_fraction(self, fraction: float) -> bool:
        """Return True in the upper half of [0, 1]."""
        return fraction >= 0.5

    def fraction(self, value: object) -> float:
        """Return the middle of the half that holds the value."""
        return 0.75 if self.check(value) else 0.25

    def decode(self, coordinate: float) -> bool:
        """Return the value at a coordinate."""
        return coordinate >= 0

    def encode(self, value: object) -> float:
        """Return a coordinate a quarter of a range to the value's side, near the other side."""
        return 0.25 if self.check(value) else -0.25

    def check(self, value: object) -> bool:
        """Return the value.

        Raises:
            ValueError: it is not a boolean.
        """
        if not isinstance(value, bool):
            raise ValueError(f"{self.name} is true or false; got {value!r}")
        return value


@dataclass(frozen=True)
class CategoricalParameter:
    """One of several names, in no order."""

    name: str
    choices: tuple[str, ...]

    def check(self, value: object) -> str:
        """Return the value.

        Raises:
            ValueError: it is not a choice.
        """
        if not isinstance(value, str) or value not in self.choices:
            raise ValueError(f"{self.name} is one of {', '.join(self.choices)}; got {value!r}")
        return value


Parameter: TypeAlias = FloatParameter | BooleanParameter | CategoricalParameter
