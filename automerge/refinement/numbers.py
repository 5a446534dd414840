"""The numbers of a recipe that a loss has a slope with respect to, as a vector and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from automerge.errors import ConfigError, Fault
from automerge.methods import Knob, Method
from automerge.recipe import (
    DEFAULT,
    Coordinate,
    Profile,
    Recipe,
    RecipeSource,
    Value,
    canonical,
)


@dataclass(frozen=True)
class Number:
    """One number of a recipe: where it is, its value, its bounds, and a step that is large for it.

    `unit` is the width of the knob's usual range, at most 1.
    """

    coordinate: Coordinate
    value: float
    low: float
    high: float
    unit: float


def explicit(recipe: Recipe, method: Method) -> Recipe:
    """Return the same recipe with its smooth numbers written out, where it leaves them to defaults.

    These are the knobs of sources. Those of the recipe, such as λ, which scales all weights, are
    added only for methods whose sources have none.

    Raises:
        ConfigError: the recipe has several methods or slices, or its method has no smooth number.
    """
    if recipe.methods:
        message = "a recipe with several methods cannot be refined; rewrite it with a single one"
        raise ConfigError([Fault(message)])
    if recipe.slices:
        message = "a recipe with slices cannot be refined; rewrite it without slices"
        raise ConfigError([Fault(message)])
    own = [knob for knob in method.source_knobs if knob.smooth]
    shared = [knob for knob in method.recipe_knobs if knob.smooth]
    if not own and not shared:
        message = f"{method.name} has no number with a slope, so a recipe of it cannot be refined"
        raise ConfigError([Fault(message)])
    sources = tuple(
        RecipeSource(
            source.name,
            {
                **source.knobs,
                **{knob.name: _whole(source.knobs.get(knob.name), knob) for knob in own},
            },
        )
        for source in recipe.sources
    )
    written: dict[str, Profile | Value] = {
        knob.name: _whole(recipe.knobs.get(knob.name), knob)
        for knob in shared
        if not own or knob.name in recipe.knobs
    }
    return replace(recipe, sources=sources, knobs={**recipe.knobs, **written})


def _whole(profile: object, knob: Knob) -> Profile:
    """Return a knob's profile with a value for every tensor."""
    if profile is None:
        return Profile.of(float(knob.default))
    known = profile if isinstance(profile, Profile) else Profile.of(profile)  # type: ignore[arg-type]
    if any(selector == DEFAULT for selector, _ in known.parts):
        return known
    return Profile((*known.parts, (DEFAULT, (canonical(float(knob.default)),))))


def numbers(recipe: Recipe, method: Method) -> tuple[Number, ...]:
    """List the smooth numbers that a recipe has written out, in the order of its coordinates."""
    knobs = {(knob.scope == "source", knob.name): knob for knob in method.knobs if knob.smooth}
    found = []
    for at, number in recipe.numbers.items():
        knob = knobs.get((at.source is not None, at.knob))
        if knob is not None:
            low, high = knob.domain
            bounds = knob.search or (0.0, 1.0)
            unit = min(1.0, bounds[1] - bounds[0])
            found.append(Number(at, number, low, high, unit))
    return tuple(found)


def with_values(recipe: Recipe, values: Mapping[Coordinate, float]) -> Recipe:
    """Return the recipe with other values for some of its numbers."""
    return replace(
        recipe,
        sources=tuple(
            RecipeSource(source.name, _moved(source.name, source.knobs, values))
            for source in recipe.sources
        ),
        knobs=_moved(None, recipe.knobs, values),
    )


def _moved(
    owner: str | None, knobs: Mapping[str, object], values: Mapping[Coordinate, float]
) -> dict[str, Profile]:
    return {
        knob: Profile(
            tuple(
                (selector, _knots(owner, knob, selector, known, values))
                for selector, known in profile.parts
            )
        )
        if isinstance(profile, Profile)
        else profile  # type: ignore[misc]  # a switch
        for knob, profile in knobs.items()
    }


def _knots(
    owner: str | None,
    knob: str,
    selector: str,
    known: Sequence[float],
    values: Mapping[Coordinate, float],
) -> tuple[float, ...]:
    return tuple(
        canonical(values.get(Coordinate(owner, knob, selector, i), value))
        for i, value in enumerate(known)
    )
