"""Layer swapping: bottom and top layers from one source, the layers between them from another.

Bandarkar et al. 2024 (arXiv:2410.01335). The layers where the two meet are averaged; embeddings go
with the first layer, the final norm and the head with the last. It is a merge of whole models with
weights per layer, 0 where a source has no share.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from automerge.recipe import Coordinate, Profile, Recipe, RecipeSource, interpolate, neighbours
from automerge.space.parameters import FloatParameter
from automerge.trial import Params

_OUTER, _BOTTOM, _TOP = "layers.outer", "layers.bottom", "layers.top"
_WEIGHT = "weight"
_MARGIN = 0.499
"""Beyond the outer counts, so that after rounding they are as likely as the others."""
USUAL_BOTTOM, USUAL_TOP = 5 / 32, 3 / 32
"""Shares of the layers that a search begins with, as in docs/recipes/slices/layer_swap.yaml."""


@dataclass(frozen=True)
class Swap:
    """One of two `sources` has the bottom and the top of `n_layers`, the other what is between."""

    n_layers: int
    sources: tuple[str, str]

    @property
    def most(self) -> int:
        """The number of layers that bottom and top may have each: one is left between them."""
        return (self.n_layers - 1) // 2

    @cached_property
    def parameters(self) -> tuple[FloatParameter, ...]:
        """Which source is outside, by its number, and how many layers are below and above."""
        highest = {_OUTER: 1, _BOTTOM: self.most, _TOP: self.most}
        return tuple(
            FloatParameter(name, name, -_MARGIN, high + _MARGIN, smooth=False)
            for name, high in highest.items()
        )

    @property
    def in_words(self) -> str:
        """What it searches."""
        first, second = self.sources
        return (
            f"3 dimensions: the bottom and top layers, up to {self.most} each, from {first} or "
            f"{second}, those between from the other"
        )

    def shares(self, params: Params) -> dict[str, list[bool]]:
        """Return, per source, which layers it has a share in."""
        outer, bottom, top = (round(float(params[name])) for name in (_OUTER, _BOTTOM, _TOP))
        end = self.n_layers - top
        inner = [bottom <= layer < end for layer in range(self.n_layers)]
        outside = [
            layer < bottom
            or layer >= end
            or (bottom > 0 and layer == bottom)
            or (top > 0 and layer == end - 1)
            for layer in range(self.n_layers)
        ]
        return {self.sources[outer]: outside, self.sources[1 - outer]: inner}

    def recipe(self, recipe: Recipe, params: Params) -> Recipe:
        """Return a recipe of both sources with weights where they have a share, 0 elsewhere."""
        shares = self.shares(params)
        if {source.name for source in recipe.sources} != shares.keys():
            return recipe
        sources = (
            RecipeSource(s.name, {**s.knobs, _WEIGHT: self._masked(s, shares[s.name])})
            for s in recipe.sources
        )
        return replace(recipe, sources=tuple(sources))

    def read(self, recipe: Recipe) -> tuple[Recipe, Params] | None:
        """Invert `recipe` for weights that are the same in all layers; None for other recipes."""
        known = {source.name: source for source in recipe.sources}
        weights = {name: self._weights(known.get(name)) for name in self.sources}
        if recipe.slices or not known.keys() <= weights.keys():
            return None
        levels = {name: {w for w in found if w} for name, found in weights.items()}
        if any(len(level) > 1 for level in levels.values()) or any(
            math.isnan(w) for found in weights.values() for w in found
        ):
            return None
        shared = {name: [w != 0 for w in found] for name, found in weights.items()}
        params = self._layers(shared)
        if params is None:
            return None
        plain = (
            RecipeSource(
                name,
                {
                    **(known[name].knobs if name in known else {}),
                    _WEIGHT: Profile.of(max(levels[name], default=1.0)),
                },
            )
            for name in self.sources
        )
        return replace(recipe, sources=tuple(plain)), params

    def _layers(self, shared: Mapping[str, list[bool]]) -> Params | None:
        """Return the parameters that give each source these layers; None without any."""
        for outer, inner in enumerate(reversed(self.sources)):
            inside = [layer for layer, share in enumerate(shared[inner]) if share]
            if inside:
                bottom, top = inside[0], self.n_layers - 1 - inside[-1]
                params = {_OUTER: float(outer), _BOTTOM: float(bottom), _TOP: float(top)}
                if max(bottom, top) <= self.most and self.shares(params) == shared:
                    return params
        return None

    def starts(self) -> Iterator[tuple[str, Recipe]]:
        """Yield names and recipes to begin with: the paper's, with either source outside."""
        both = tuple(RecipeSource(n, {_WEIGHT: Profile.of(1.0)}) for n in self.sources)
        bottom, top = (
            float(min(max(round(share * self.n_layers), 1), self.most))
            for share in (USUAL_BOTTOM, USUAL_TOP)
        )
        for outer in (0, 1):
            params = {_OUTER: float(outer), _BOTTOM: bottom, _TOP: top}
            yield f"swap-{outer + 1}", self.recipe(Recipe("linear", both), params)

    def pull_back(
        self, recipe: Recipe, params: Params, slopes: Mapping[Coordinate, float]
    ) -> dict[Coordinate, float]:
        """Return slopes in the numbers of a recipe, given those in what `recipe` makes of it."""
        shares, last = self.shares(params), max(self.n_layers - 1, 1)
        sources = {source.name: source.knobs for source in recipe.sources}
        whole = sources.keys() != shares.keys()
        pulled: dict[Coordinate, float] = {}
        for at, slope in slopes.items():
            parts: Sequence[tuple[int, float]] = ((at.knot, 1.0),)
            if not whole and at.source is not None and at.knob == _WEIGHT:
                knots = dict(sources[at.source][_WEIGHT].parts)[at.selector]
                shared = shares[at.source][at.knot]
                parts = neighbours(len(knots), at.knot / last) if shared else ()
            for knot, share in parts:
                number = replace(at, knot=knot)
                pulled[number] = pulled.get(number, 0.0) + share * slope
        return pulled

    def _masked(self, source: RecipeSource, shares: Sequence[bool]) -> Profile:
        last = max(self.n_layers - 1, 1)
        given = source.knobs.get(_WEIGHT, Profile.of(1.0))
        return Profile.of(
            {
                selector: [
                    interpolate(knots, layer / last) if share else 0.0
                    for layer, share in enumerate(shares)
                ]
                for selector, knots in given.parts
            }
        )

    def _weights(self, source: RecipeSource | None) -> list[float]:
        """Return a source's weight in each layer; NaN where it depends on more than that."""
        if source is None:
            return [0.0] * self.n_layers
        parts = dict(source.knobs.get(_WEIGHT, Profile.of(1.0)).parts)
        knots, last = parts.get("default", ()), max(self.n_layers - 1, 1)
        if len(parts) != 1 or not knots:
            return [float("nan")] * self.n_layers
        return [interpolate(knots, layer / last) for layer in range(self.n_layers)]
