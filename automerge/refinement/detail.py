"""More numbers for the same merge: a value per depth, component, layer or tensor."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from automerge.methods import Method
from automerge.recipe import (
    COMPONENTS,
    DEFAULT,
    Place,
    Profile,
    Recipe,
    RecipeSource,
    Value,
    interpolate,
)

DETAILS = ("none", "depth", "components", "per_layer", "per_tensor")
"""From the recipe's own numbers to one for every tensor of every source."""
KNOTS = {"depth": 3, "components": 2}
"""Values over depth, at least, where there are not as many as layers."""
_LAYER = re.compile(r"(^|\.)\d+\.")


def detailed(recipe: Recipe, method: Method, places: Iterable[Place], detail: str) -> Recipe:
    """Return a recipe for the same merge whose smooth numbers vary more finely.

    Args:
        recipe: with its smooth numbers written out (`numbers.explicit`).
        method: the recipe's.
        places: of the model's tensors.
        detail: `depth` has values at `KNOTS` depths at least; `components` also tells components
            apart; `per_layer` has a value for each layer and component; `per_tensor` one for each
            tensor (Zhang et al. 2024, arXiv:2407.02880).
    """
    if detail == "none":
        return recipe
    known = tuple(places)
    smooth = {(knob.scope == "source", knob.name) for knob in method.knobs if knob.smooth}
    sources = tuple(
        RecipeSource(
            source.name,
            {
                knob: _finer(profile, known, detail) if (True, knob) in smooth else profile
                for knob, profile in source.knobs.items()
            },
        )
        for source in recipe.sources
    )
    shared: dict[str, Profile | Value] = {
        knob: _finer(value, known, detail)
        if isinstance(value, Profile) and (False, knob) in smooth
        else value
        for knob, value in recipe.knobs.items()
    }
    return replace(recipe, sources=sources, knobs=shared)


def _finer(profile: Profile, places: Sequence[Place], detail: str) -> Profile:
    """Return a profile that gives each tensor the same value by more numbers."""
    groups: dict[str, tuple[tuple[float, ...], list[Place]]] = {}
    for place in places:
        deciding = profile.deciding(place)
        if deciding is not None:
            selector = _selector(deciding[0], place, detail)
            groups.setdefault(selector, (deciding[1], []))[1].append(place)
    layers = 1 + max((place.layer for place in places if place.layer is not None), default=0)
    order = _order([selector for selector, _ in profile.parts], groups)
    return Profile(tuple((s, _resampled(*groups[s], layers, detail)) for s in order))


def _selector(deciding: str, place: Place, detail: str) -> str:
    if detail == "per_tensor":
        name = _LAYER.sub(r"\1*.", place.tensor, count=1)
        return name if "*" in name else f"{name}*"
    if detail == "depth" or deciding != DEFAULT:
        return deciding
    return place.component


def _order(known: Sequence[str], groups: Mapping[str, object]) -> list[str]:
    """Selectors in an order in which each decides for its own tensors: the first match decides."""
    patterns = sorted(
        (s for s in groups if s not in known and "*" in s), key=lambda s: (-len(s), s)
    )
    kept = [s for s in known if s in groups and s != DEFAULT]
    components = [s for s in COMPONENTS if s in groups and s not in known]
    return [*patterns, *kept, *components, *([DEFAULT] if DEFAULT in groups else [])]


def _resampled(
    knots: Sequence[float], places: Sequence[Place], layers: int, detail: str
) -> tuple[float, ...]:
    """Return values at more depths, equal to the interpolation of the knots at all places."""
    depths = sorted({place.depth for place in places})
    if len(depths) == 1:
        return (interpolate(knots, depths[0]),)
    exact = 2 if depths == [0.0, 1.0] else max(layers, 2)
    wanted = KNOTS.get(detail, exact)
    if exact <= wanted or detail not in KNOTS:
        count = exact
    else:  # Knots are kept, and as many put between any two as are wanted.
        gaps = len(knots) - 1
        count = gaps * max(1, -(-(wanted - 1) // gaps)) + 1 if gaps else wanted
    return tuple(interpolate(knots, i / (count - 1)) for i in range(count))
