"""One knob's values over depth and components: parameters ↔ profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from automerge.recipe import DEFAULT, Profile, interpolate
from automerge.space.parameters import FloatParameter
from automerge.trial import Params

TOLERANCE = 1e-5
"""Relative difference below which two profiles, rounded to six digits, are the same."""


@dataclass(frozen=True)
class KnobSpace:
    """The parameters of one knob of one source, or of the recipe.

    Attributes:
        knob: its name.
        groups: component groups, as selectors.
        parameters: a row per group, an entry per value over depth.
        knot_entries: the entry of a row that each knot of the profile is.
        depths: the depth in [0, 1] that each entry is read back at.
    """

    knob: str
    groups: tuple[tuple[str, ...], ...]
    parameters: tuple[tuple[FloatParameter, ...], ...]
    knot_entries: tuple[int, ...]
    depths: tuple[float, ...]

    def profile(self, params: Params) -> Profile:
        """Return the profile with these values."""
        knots = {
            selector: [float(params[row[entry].name]) for entry in self.knot_entries]
            for group, row in zip(self.groups, self.parameters, strict=True)
            for selector in group
        }
        return Profile.of(knots)

    def read(self, profile: Profile) -> Mapping[str, float] | None:
        """Return parameters whose profile may be this one; None where one is out of bounds."""
        params = {}
        for group, row in zip(self.groups, self.parameters, strict=True):
            for parameter, depth in zip(row, self.depths, strict=True):
                value = _value_of(profile, group[0], depth)
                if value is None or not parameter.low <= value <= parameter.high:
                    return None
                params[parameter.name] = value
        return params

    def pull_back(self, slopes: Mapping[tuple[str, int], float]) -> dict[str, float]:
        """Return the slopes per fraction of a parameter's range, by role.

        The chain rule through `profile` and `FloatParameter.at_fraction`, which are linear but for
        rounding. A parameter is left out where no knot it moves has a slope.

        Args:
            slopes: per unit of each knot of the profile, by selector and number; knots that are
                not there have no slope.
        """
        pulled: dict[str, float] = {}
        for group, row in zip(self.groups, self.parameters, strict=True):
            for selector in group:
                for knot, entry in enumerate(self.knot_entries):
                    if (selector, knot) in slopes:
                        parameter = row[entry]
                        slope = slopes[selector, knot] * (parameter.high - parameter.low)
                        pulled[parameter.role] = pulled.get(parameter.role, 0.0) + slope
        return pulled

    def middle(self) -> Mapping[str, float]:
        """Return the middle of every parameter."""
        return {p.name: p.at_fraction(0.5) for row in self.parameters for p in row}


def _value_of(profile: Profile, selector: str, depth: float) -> float | None:
    """Return the value at a depth where `selector` decides, else that of `default`."""
    by_selector = dict(profile.parts)
    knots = by_selector.get(selector, by_selector.get(DEFAULT))
    return None if knots is None else interpolate(knots, depth)


def same(one: Profile, other: Profile, depths: Sequence[float]) -> bool:
    """Whether two profiles give every tensor the same value, as far as their selectors tell."""
    selectors = [[selector for selector, _ in profile.parts] for profile in (one, other)]
    patterns = any("*" in selector for listed in selectors for selector in listed)
    if patterns and selectors[0] != selectors[1] and selectors[0] != [DEFAULT]:
        return False
    for selector in dict.fromkeys([*selectors[0], *selectors[1], DEFAULT]):
        for depth in depths:
            left, right = (_value_of(profile, selector, depth) for profile in (one, other))
            if left is None or right is None:
                if left is not right:
                    return False
            elif abs(left - right) > TOLERANCE * max(1.0, abs(left)):
                return False
    return True
