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

    `parameters` has a row for each of `groups`. Knot i of the profile is entry `spread[i]` of a
    row; entry j is read back from a profile at `depths[j]`.
    """

    knob: str
    groups: tuple[tuple[str, ...], ...]
    parameters: tuple[tuple[FloatParameter, ...], ...]
    spread: tuple[int, ...]
    depths: tuple[float, ...]

    def profile(self, params: Params) -> Profile:
        """The profile with these values."""
        knots = {
            selector: [float(params[row[entry].name]) for entry in self.spread]
            for group, row in zip(self.groups, self.parameters, strict=True)
            for selector in group
        }
        return Profile.of(knots)

    def read(self, profile: Profile) -> Mapping[str, float] | None:
        """Parameters whose profile may be this one; None where a value is out of bounds."""
        params = {}
        for group, row in zip(self.groups, self.parameters, strict=True):
            for parameter, depth in zip(row, self.depths, strict=True):
                value = value_of(profile, group[0], depth)
                if value is None or not parameter.low <= value <= parameter.high:
                    return None
                params[parameter.name] = value
        return params

    def middle(self) -> Mapping[str, float]:
        """The middle of every parameter."""
        return {p.name: p.at_share(0.5) for row in self.parameters for p in row}


def value_of(profile: Profile, selector: str, depth: float) -> float | None:
    """The value at a depth where `selector` decides; that of `default` where it is not listed."""
    parts = dict(profile.parts)
    knots = parts.get(selector, parts.get(DEFAULT))
    return None if knots is None else interpolate(knots, depth)


def same(one: Profile, other: Profile, depths: Sequence[float]) -> bool:
    """Whether two profiles give every tensor the same value, as far as their selectors tell."""
    selectors = [[selector for selector, _ in profile.parts] for profile in (one, other)]
    patterns = any("*" in selector for listed in selectors for selector in listed)
    if patterns and selectors[0] != selectors[1] and selectors[0] != [DEFAULT]:
        return False
    for selector in dict.fromkeys([*selectors[0], *selectors[1], DEFAULT]):
        for depth in depths:
            left, right = (value_of(profile, selector, depth) for profile in (one, other))
            if left is None or right is None:
                if left is not right:
                    return False
            elif abs(left - right) > TOLERANCE * max(1.0, abs(left)):
                return False
    return True
