"""Crossover of two sources at a layer, above which they change places.

M2N2 (Abrantes et al. 2025, Competition and attraction improve model fusion, arXiv:2508.16204)
splits the parameters of two models at a point, merges those before it with a ratio and those after
it with the opposite ratio. Here the point is between two layers. It is a merge of whole models, by
weights per layer: embeddings are made as the first layer is, the final norm and the head as the
last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from automerge.recipe import Coordinate, Profile, Recipe, RecipeSource, interpolate, neighbours
from automerge.space.declarations import MethodDeclaration
from automerge.space.parameters import FloatParameter
from automerge.trial import Params

_SPLIT = "layers.split"
_WEIGHT = "weight"
RATIO = "t"
"""The knob of methods that give a single number for both sources, and the second's share."""
_MARGIN = 0.499
"""Beyond the outer counts, so that after rounding they are as likely as the others."""


def can_cross(method: MethodDeclaration) -> bool:
    """Return whether a method's sources have weights, or a ratio, that can be exchanged."""
    knobs = {knob.name for knob in method.knobs}
    return _WEIGHT in knobs or (RATIO in knobs and method.min_sources > 1)


@dataclass(frozen=True)
class Crossing:
    """Two `sources` change places above one of `n_layers`."""

    n_layers: int
    sources: tuple[str, str]

    @cached_property
    def parameters(self) -> tuple[FloatParameter, ...]:
        """How many layers are below the point, from 1; with all of them, nothing is exchanged."""
        high = self.n_layers + _MARGIN
        return (FloatParameter(_SPLIT, _SPLIT, 1 - _MARGIN, high, smooth=False),)

    @property
    def in_words(self) -> str:
        """What it searches."""
        first, second = self.sources
        return f"1 dimension: the layer above which {first} and {second} change places"

    def recipe(self, recipe: Recipe, params: Params) -> Recipe:
        """Return a recipe in which each source has the other's knobs above the point."""
        below = round(float(params[_SPLIT]))
        known = {source.name: source.knobs for source in recipe.sources}
        if below == self.n_layers:
            return recipe
        knobs, ratio = dict(recipe.knobs), recipe.knobs.get(RATIO)
        if isinstance(ratio, Profile):
            opposite = Profile(tuple((s, tuple(1 - t for t in own)) for s, own in ratio.parts))
            knobs[RATIO] = self._joined(ratio, opposite, below)
        if known.keys() != set(self.sources):
            return replace(recipe, knobs=knobs)
        sources = tuple(
            RecipeSource(
                source.name,
                {
                    knob: self._joined(own, known[self._other(source.name)][knob], below)
                    for knob, own in source.knobs.items()
                },
            )
            for source in recipe.sources
        )
        return replace(recipe, sources=sources, knobs=knobs)

    def read(self, recipe: Recipe) -> tuple[Recipe, Params] | None:
        """Invert `recipe` for numbers that are the same in all layers; others are not exchanged.

        Returns None for a recipe with slices.
        """
        if recipe.slices:
            return None
        for below in range(self.n_layers, 0, -1):
            params = {_SPLIT: float(below)}
            if (plain := _flat(self.recipe(recipe, params))) is not None:
                return plain, params
        return recipe, {_SPLIT: float(self.n_layers)}

    def starts(self) -> Iterator[tuple[str, Recipe]]:
        """Yield names and recipes to begin with: the lower half of one, the upper of the other."""
        for number, lower in enumerate(self.sources, start=1):
            each = {name: Profile.of(float(name == lower)) for name in self.sources}
            halves = tuple(RecipeSource(name, {_WEIGHT: own}) for name, own in each.items())
            params = {_SPLIT: float(max(self.n_layers // 2, 1))}
            yield f"halves-{number}", self.recipe(Recipe("linear", halves), params)

    def pull_back(
        self, recipe: Recipe, params: Params, slopes: Mapping[Coordinate, float]
    ) -> dict[Coordinate, float]:
        """Return slopes in the numbers of a recipe, given those in what `recipe` makes of it."""
        below, last = round(float(params[_SPLIT])), max(self.n_layers - 1, 1)
        known = {source.name: source.knobs for source in recipe.sources}
        exchanged = known.keys() == set(self.sources)
        pulled: dict[Coordinate, float] = {}
        for at, slope in slopes.items():
            above, factor, origin = at.knot >= below, 1.0, at
            knobs = recipe.knobs if at.source is None else known[at.source]
            profile = knobs[at.knob]
            moved = exchanged if at.source is not None else at.knob == RATIO
            if below == self.n_layers or not moved or not isinstance(profile, Profile):
                pulled[at] = pulled.get(at, 0.0) + slope
                continue
            if above and at.source is None:
                factor = -1.0
            elif above and at.source is not None:
                origin = replace(at, source=self._other(at.source))
                profile = known[self._other(at.source)][at.knob]
            knots = dict(profile.parts)[at.selector]
            for knot, share in neighbours(len(knots), at.knot / last):
                number = replace(origin, knot=knot)
                pulled[number] = pulled.get(number, 0.0) + share * factor * slope
        return pulled

    def _other(self, source: str) -> str:
        first, second = self.sources
        return second if source == first else first

    def _joined(self, lower: Profile, upper: Profile, below: int) -> Profile:
        """Return one profile's values in the layers below the point, another's in those above."""
        last, others = max(self.n_layers - 1, 1), dict(upper.parts)
        return Profile.of(
            {
                selector: [
                    interpolate(knots if layer < below else others[selector], layer / last)
                    for layer in range(self.n_layers)
                ]
                for selector, knots in lower.parts
            }
        )


def _flat(recipe: Recipe) -> Recipe | None:
    """Return a recipe with one number for all layers; None where they differ."""
    ratio = recipe.knobs.get(RATIO)
    own = dict(recipe.knobs)
    every = [{RATIO: ratio}] if isinstance(ratio, Profile) else []
    every += [dict(source.knobs) for source in recipe.sources]
    parts = [part for knobs in every for profile in knobs.values() for part in profile.parts]
    if any(len(set(knots)) > 1 for _, knots in parts):
        return None
    flat = [
        {k: Profile(tuple((s, knots[:1]) for s, knots in p.parts)) for k, p in knobs.items()}
        for knobs in every
    ]
    if len(flat) > len(recipe.sources):
        own |= flat.pop(0)
    sources = zip(recipe.sources, flat, strict=True)
    return replace(recipe, knobs=own, sources=tuple(RecipeSource(s.name, k) for s, k in sources))
