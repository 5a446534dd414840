"""Slices of a recipe without slices: each layer made as the recipe makes that layer of the base."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from automerge.recipe import (
    Coordinate,
    Profile,
    Recipe,
    Slice,
    Value,
    interpolate,
    neighbours,
)


def sliced(recipe: Recipe, span: tuple[int, int], n_layers: int, models: Iterable[str]) -> Slice:
    """Return some layers of a recipe for `n_layers`, of some of its models, with their values."""
    taking_part = tuple(models)
    return Slice(
        dict.fromkeys(taking_part, span),
        {
            source.name: _within(source.knobs, span, n_layers)
            for source in recipe.sources
            if source.name in taking_part
        },
        _within(recipe.knobs, span, n_layers),
    )


def pulled_back(
    recipe: Recipe,
    spans: Sequence[tuple[int, int]],
    n_layers: int,
    slopes: Mapping[Coordinate, float],
) -> dict[Coordinate, float]:
    """Return slopes in the numbers of a recipe without slices, given those in its slices.

    The chain rule through `sliced`, `spans` being the layers of the slices: a layer that is run
    twice has the sum of both slopes.
    """
    last = max(n_layers - 1, 1)
    sources = {source.name: source.knobs for source in recipe.sources}
    pulled: dict[Coordinate, float] = {}
    for at, slope in slopes.items():
        owner: Mapping[str, Profile | Value] = (
            recipe.knobs if at.source is None else sources[at.source]
        )
        profile = owner[at.knob]
        assert isinstance(profile, Profile)
        knots = dict(profile.parts)[at.selector]
        shares: Sequence[tuple[int, float]] = ((at.knot, 1.0),)
        if at.part is not None and len(knots) > 1:
            shares = neighbours(len(knots), (spans[at.part][0] + at.knot) / last)
        for knot, share in shares:
            number = replace(at, knot=knot, part=None)
            pulled[number] = pulled.get(number, 0.0) + share * slope
    return pulled


def _within(
    knobs: Mapping[str, Profile | Value], span: tuple[int, int], n_layers: int
) -> dict[str, Profile]:
    """Return the knobs that vary over the layers, with their values in these."""
    last = max(n_layers - 1, 1)
    depths = [layer / last for layer in range(*span)]
    return {
        name: _at(profile, depths)
        for name, profile in knobs.items()
        if isinstance(profile, Profile) and any(len(knots) > 1 for _, knots in profile.parts)
    }


def _at(profile: Profile, depths: Sequence[float]) -> Profile:
    return Profile.of(
        {
            selector: [interpolate(knots, depth) for depth in depths] if len(knots) > 1 else knots
            for selector, knots in profile.parts
        }
    )
