"""One knob's values over depth and components: parameters ↔ profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from automerge.arrays import Floats
from automerge.recipe import DEFAULT, Profile, interpolate, is_zone
from automerge.space import deviations
from automerge.space.parameters import FloatParameter
from automerge.trial import Params

TOLERANCE = 1e-5
"""Relative difference below which two profiles, rounded to six digits, are the same."""
READ_DECIMALS = 9
"""Of coefficients that are read back: more than six digits need, fewer than rounding disturbs."""


@dataclass(frozen=True)
class KnobSpace:
    """The parameters of one knob of one source, or of the recipe.

    The first parameter is the common value; the others are the coefficients of deviations from it
    (see `deviations`). Where the sum leaves the common value's bounds, the bound is taken.

    Attributes:
        knob: its name.
        groups: component groups, as selectors.
        parameters: a row per mode of the groups, an entry per mode over depth.
        knot_entries: which of the values over depth each knot of the profile is.
        depths: the depth in [0, 1] that each value is read back at.
    """

    knob: str
    groups: tuple[tuple[str, ...], ...]
    parameters: tuple[tuple[FloatParameter, ...], ...]
    knot_entries: tuple[int, ...]
    depths: tuple[float, ...]

    @property
    def _bounds(self) -> tuple[float, float]:
        common = self.parameters[0][0]
        return common.low, common.high

    def _unbounded(self, params: Params) -> Floats:
        """Return common value plus deviations, (groups, depths)."""
        rows = [[float(params[parameter.name]) for parameter in row] for row in self.parameters]
        return deviations.values(np.array(rows))

    def profile(self, params: Params) -> Profile:
        """Return the profile with these values."""
        rows = np.clip(self._unbounded(params), *self._bounds).tolist()
        knots = {
            selector: [row[entry] for entry in self.knot_entries]
            for group, row in zip(self.groups, rows, strict=True)
            for selector in group
        }
        return Profile.of(knots)

    def read(self, profile: Profile) -> Mapping[str, float] | None:
        """Return parameters whose profile may be this one; None where a selector has no value."""
        rows = [
            [_value_of(profile, group[0], depth) for depth in self.depths] for group in self.groups
        ]
        values = np.array(rows, dtype=np.float64)  # None becomes NaN
        if np.isnan(values).any():
            return None
        read = deviations.coefficients(values).round(READ_DECIMALS) + 0.0
        return {
            parameter.name: min(max(coefficient, parameter.low), parameter.high)
            for row, coefficients in zip(self.parameters, read.tolist(), strict=True)
            for parameter, coefficient in zip(row, coefficients, strict=True)
        }

    def pull_back(
        self, params: Params, slopes: Mapping[tuple[str, int], float]
    ) -> dict[str, float]:
        """Return the slopes per fraction of a parameter's range, by role; empty without any.

        The chain rule through `profile` and `FloatParameter.at_fraction`, which are linear but for
        rounding and bounds. Of a value that the deviations take beyond a bound, a slope along which
        a descent would go on outwards counts as 0, and one that leads back inside as it is: so a
        descent ends at a bound but does not stick to it.

        Args:
            params: where the slopes were taken.
            slopes: per unit of each knot of the profile, by selector and number; knots that are
                not there have no slope.
        """
        grid = np.zeros((len(self.groups), len(self.depths)))
        known = False
        for row, group in zip(grid, self.groups, strict=True):
            for selector in group:
                for knot, entry in enumerate(self.knot_entries):
                    if (selector, knot) in slopes:
                        row[entry] += slopes[selector, knot]
                        known = True
        if not known:
            return {}
        values, (low, high) = self._unbounded(params), self._bounds
        outwards = ((values > high) & (grid < 0)) | ((values < low) & (grid > 0))
        pulled = deviations.pulled_back(np.where(outwards, 0.0, grid)).tolist()
        return {
            parameter.role: slope * (parameter.high - parameter.low)
            for row, slopes_of_row in zip(self.parameters, pulled, strict=True)
            for parameter, slope in zip(row, slopes_of_row, strict=True)
        }

    def middle(self) -> Mapping[str, float]:
        """Return the middle of every parameter."""
        return {p.name: p.at_fraction(0.5) for row in self.parameters for p in row}


def _value_of(profile: Profile, selector: str, depth: float) -> float | None:
    """Return the value at a depth where `selector` decides, else that of `default`."""
    by_selector = dict(profile.parts)
    knots = by_selector.get(selector, by_selector.get(DEFAULT))
    return None if knots is None else interpolate(knots, depth)


def same(one: Profile, other: Profile, depths: Sequence[float], only: Sequence[str] = ()) -> bool:
    """Return whether two profiles give every tensor the same value, by their selectors.

    With `only`, the values where these decide are compared.
    """
    selectors = [[selector for selector, _ in profile.parts] for profile in (one, other)]
    patterns = any("*" in s or is_zone(s) for listed in selectors for s in listed)
    if patterns and not only and selectors[0] != selectors[1] and selectors[0] != [DEFAULT]:
        return False
    for selector in only or dict.fromkeys([*selectors[0], *selectors[1], DEFAULT]):
        for depth in depths:
            left, right = (_value_of(profile, selector, depth) for profile in (one, other))
            if left is None or right is None:
                if left is not right:
                    return False
            elif abs(left - right) > TOLERANCE * max(1.0, abs(left)):
                return False
    return True
