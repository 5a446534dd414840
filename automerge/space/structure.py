"""Layers left out or run twice: a run of neighbours, of searched length and position.

Leaving out a block of layers is from Gromov et al. 2024 (arXiv:2403.17887), running one twice from
SOLAR's depth up-scaling (Kim et al. 2023, arXiv:2312.15166).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from automerge.recipe import Coordinate, Recipe, uniform_average
from automerge.space.parameters import FloatParameter
from automerge.space.sliced import pulled_back, sliced
from automerge.trial import Params

_COUNT, _START = "layers.count", "layers.start"
_MARGIN = 0.499
"""Beyond the outer counts, so that after rounding they are as likely as the others."""


@dataclass(frozen=True)
class Structure:
    """Up to `drop` neighbouring layers of `n_layers` are left out, or up to `repeat` run twice.

    `sources` are those of the merges that a search begins with.
    """

    n_layers: int
    drop: int
    repeat: int
    sources: tuple[str, ...] = ()

    @cached_property
    def parameters(self) -> tuple[FloatParameter, FloatParameter]:
        """How many more layers than the base has (fewer where negative), and where they are."""
        return (
            FloatParameter(
                _COUNT, _COUNT, -self.drop - _MARGIN, self.repeat + _MARGIN, smooth=False
            ),
            FloatParameter(_START, _START, 0.0, 1.0, smooth=False),
        )

    @property
    def unchanged(self) -> Params:
        """Parameters of a model with the base's layers."""
        return {_COUNT: 0.0, _START: 0.5}

    @property
    def in_words(self) -> str:
        """What it searches."""
        parts = [
            f"up to {count} adjacent ones {done}"
            for count, done in ((self.drop, "left out"), (self.repeat, "run twice"))
            if count
        ]
        return f"2 dimensions: {' or '.join(parts)}"

    def starts(self) -> Iterator[tuple[str, Recipe]]:
        """Yield names and recipes to begin with: the largest changes, of the sources' average.

        Deeper, the layers in the middle are run twice, as in SOLAR; shallower, the last but one and
        those before it are left out, which Gromov et al. (section 4.1) find as good as any choice
        by similarity.
        """
        if not self.sources:
            return
        average = uniform_average(self.sources)
        if self.repeat:
            yield "deeper", self.recipe(average, {_COUNT: float(self.repeat), _START: 0.5})
        if self.drop:
            left = self.n_layers - self.drop
            start = (left - 1) / left
            yield "shallower", self.recipe(average, {_COUNT: -float(self.drop), _START: start})

    def read(self, recipe: Recipe) -> tuple[Recipe, Params] | None:
        """Invert `recipe` for knobs that are the same in all layers; None for other recipes."""
        if not recipe.slices:
            return recipe, self.unchanged
        runs = [set(piece.layers.values()) for piece in recipe.slices]
        stated = (any(piece.sources.values()) or piece.knobs for piece in recipe.slices)
        if any(len(run) > 1 for run in runs) or any(stated):
            return None
        spans = [next(iter(run)) for run in runs]
        count = sum(stop - first for first, stop in spans) - self.n_layers
        if not -self.drop <= count <= self.repeat:
            return None
        # The first layer of the run: where the model goes back to, or what it skips.
        start = spans[-1][0] if count > 0 else spans[0][1] if spans[0][0] == 0 else 0
        share = start / max(self.n_layers - abs(count), 1)
        params = {_COUNT: float(count), _START: min(share, 1.0)}
        return (replace(recipe, slices=()), params) if self.spans(params) == spans else None

    def spans(self, params: Params) -> list[tuple[int, int]]:
        """Return the layers of the model, as half-open ranges [first, end) of the base's."""
        count = round(float(params[_COUNT]))
        start = round(float(params[_START]) * (self.n_layers - abs(count)))
        if count < 0:
            spans = [(0, start), (start - count, self.n_layers)]
        elif count > 0:
            spans = [(0, start + count), (start, self.n_layers)]
        else:
            spans = [(0, self.n_layers)]
        return [(first, stop) for first, stop in spans if first < stop]

    def recipe(self, recipe: Recipe, params: Params) -> Recipe:
        """Return a recipe with these layers, each made as `recipe` makes that layer of the base."""
        spans = self.spans(params)
        if spans == [(0, self.n_layers)]:
            return recipe
        slices = tuple(sliced(recipe, span, self.n_layers, recipe.models) for span in spans)
        return replace(recipe, slices=slices)

    def pull_back(
        self, recipe: Recipe, params: Params, slopes: Mapping[Coordinate, float]
    ) -> dict[Coordinate, float]:
        """Return slopes in the numbers of a recipe without slices, given those in its slices.

        The chain rule through `recipe`.
        """
        return pulled_back(recipe, self.spans(params), self.n_layers, slopes)
