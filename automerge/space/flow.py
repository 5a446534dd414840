"""The data flow through several models: which layer of which model follows which, and its scale.

Evolutionary model merging (Akiba et al. 2024, arXiv:2403.13187, section 3.2): the layers of all
models are laid out one model after the other, and this sequence a number of times; an indicator
says of each place whether its layer is run. Where the hidden state enters a layer from another than
the one before it, it is multiplied by a scale, which a small network computes from both layers and
the place, so that the number of parameters does not grow with the models. For many places, another
network computes the indicators.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from automerge.recipe import Coordinate, Recipe, RecipeSource, Slice, single
from automerge.space.network import Network
from automerge.space.parameters import FloatParameter
from automerge.space.sliced import pulled_back, sliced
from automerge.trial import Params

FLIPS = 4
"""How many places a random draw changes, on average; at most a quarter of them."""
MANY = 64
"""Places beyond which indicators are those of a network, unless something else is asked for."""
_MAIN = "layers.main"
_MARGIN = 0.499
"""Beyond the outer numbers, so that after rounding they are as likely as the others."""


def usual_longest(n_layers: int) -> int:
    """Return how many layers a path has at most, unless said: half as many again as a model."""
    return n_layers + n_layers // 2


@dataclass(frozen=True, order=True)
class Spot:
    """A place in the sequence: the round, the number of the source, and its layer."""

    round: int
    source: int
    layer: int


@dataclass(frozen=True)
class Run:
    """Neighbouring layers [first, end) of one source, and the scale of what enters them."""

    source: str
    span: tuple[int, int]
    scale: float = 1.0


@dataclass(frozen=True)
class Flow:
    """Paths through the layers of `sources`, each of `n_layers`, laid out `rounds` times.

    Scales lie in [1 / `scale`, `scale`], and are not searched where that is 1. A path has at most
    `longest` layers. `network` says whether a network computes the indicators.
    """

    n_layers: int
    sources: tuple[str, ...]
    rounds: int
    scale: float
    longest: int
    network: bool

    @cached_property
    def spots(self) -> tuple[Spot, ...]:
        """All places, in the order in which they are passed."""
        return tuple(
            Spot(turn, source, layer)
            for turn in range(self.rounds)
            for source in range(len(self.sources))
            for layer in range(self.n_layers)
        )

    @property
    def share(self) -> float:
        """The prior probability that a place is not as in the main source."""
        return min(FLIPS / len(self.spots), 0.25)

    @cached_property
    def _main(self) -> tuple[FloatParameter, ...]:
        """Which source the path is, apart from what indicators change, by its number."""
        last = len(self.sources) - 1
        if not last:
            return ()
        return (FloatParameter(_MAIN, _MAIN, -_MARGIN, last + _MARGIN, smooth=False),)

    @cached_property
    def _indicators(self) -> dict[Spot, FloatParameter]:
        """A number per place, the higher the likelier is its layer run."""
        names = {
            spot: f"layers.run[{self.sources[spot.source]}].{spot.layer}.{spot.round + 1}"
            for spot in (() if self.network else self.spots)
        }
        return {
            spot: FloatParameter(name, name, 0.0, 1.0, smooth=False) for spot, name in names.items()
        }

    @cached_property
    def _placed(self) -> Network | None:
        """The network of the indicators: of depth, round and each source."""
        return Network("layers.run", 2 + len(self.sources)) if self.network else None

    @cached_property
    def _scaled(self) -> Network | None:
        """The network of the scales: of the layer left, the layer entered, and the place."""
        return Network("layers.scale", 3) if self.scale != 1 else None

    @cached_property
    def parameters(self) -> tuple[FloatParameter, ...]:
        """The main source, the indicators or their network, and the network of the scales."""
        networks = (self._placed, self._scaled)
        return (
            *self._main,
            *self._indicators.values(),
            *(parameter for network in networks if network for parameter in network.parameters),
        )

    @property
    def in_words(self) -> str:
        """What it searches."""
        layers = f"{self.n_layers} layers of {', '.join(self.sources)}"
        how = " by a small network" if self.network else ""
        scaled = f", with scales up to {self.scale:g} between them" if self.scale != 1 else ""
        return (
            f"{len(self.parameters)} dimensions: which of the {layers}, {self.rounds} times over, "
            f"are run{how}{scaled}; at most {self.longest}"
        )

    def path(self, params: Params) -> list[Spot]:
        """Return the places whose layers are run, in order; never none.

        Layers of the main source come first where there would be more than `longest`.
        """
        main = round(float(params[_MAIN])) if self._main else 0
        on = [spot for spot in self.spots if self._is_run(spot, main, params)]
        usual = [spot for spot in on if self._usual(spot, main)]
        left = self.longest - len(usual)
        others = [spot for spot in on if not self._usual(spot, main)][:left]
        return sorted([*usual, *others]) or [spot for spot in self.spots if self._usual(spot, main)]

    def _usual(self, spot: Spot, main: int) -> bool:
        return spot.round == 0 and spot.source == main

    def _is_run(self, spot: Spot, main: int, params: Params) -> bool:
        usual = self._usual(spot, main)
        if self._placed is None:
            value = float(params[self._indicators[spot].name])
            return value >= self.share if usual else value > 1 - self.share
        depth = 2 * spot.layer / max(self.n_layers - 1, 1) - 1
        turn = 2 * spot.round / max(self.rounds - 1, 1) - 1
        which = [1.0 if spot.source == number else -1.0 for number in range(len(self.sources))]
        return (1 if usual else -1) + self._placed.output(params, (depth, turn, *which)) > 0

    def runs(self, params: Params) -> list[Run]:
        """Return the path as runs of neighbouring layers."""
        path = self.path(params)
        starts = [0]
        for place, (left, entered) in enumerate(pairwise(path), start=1):
            if entered.source != left.source or entered.layer != left.layer + 1:
                starts.append(place)
        runs = []
        for start, end in pairwise((*starts, len(path))):
            spot = path[start]
            scale = self._scale(path[start - 1], spot, params) if start else 1.0
            span = (spot.layer, spot.layer + end - start)
            runs.append(Run(self.sources[spot.source], span, scale))
        return runs

    def _scale(self, left: Spot, entered: Spot, params: Params) -> float:
        if self._scaled is None:
            return 1.0
        n_all = len(self.sources) * self.n_layers
        before, after = (spot.source * self.n_layers + spot.layer for spot in (left, entered))
        place = entered.round * n_all + after
        inputs = [
            2 * number / max(count - 1, 1) - 1
            for number, count in ((before, n_all), (after, n_all), (place, len(self.spots)))
        ]
        return math.pow(self.scale, math.tanh(self._scaled.output(params, inputs)))

    def recipe(self, recipe: Recipe, params: Params) -> Recipe:
        """Return a recipe of these layers, each made as `recipe` makes it of its source alone."""
        return self._of_runs(recipe, self.runs(params))

    def _of_runs(self, recipe: Recipe, runs: Sequence[Run]) -> Recipe:
        known = {source.name: source for source in recipe.sources}
        used = tuple(known[run.source] for run in runs if run.source in known)
        sources = tuple(source for source in recipe.sources if source in used)
        if not sources:
            return recipe
        kept = [run for run in runs if run.source in known]
        if len(kept) == 1 and kept[0].span == (0, self.n_layers):
            return replace(recipe, sources=sources)
        return replace(
            recipe, sources=sources, slices=tuple(self._slice(recipe, run) for run in kept)
        )

    def _slice(self, recipe: Recipe, run: Run) -> Slice:
        models = (*((recipe.base,) if recipe.base else ()), run.source)
        made = sliced(recipe, run.span, self.n_layers, models)
        return replace(made, input_scale=run.scale)

    def read(self, recipe: Recipe) -> tuple[Recipe, Params] | None:
        """Invert `recipe` for knobs that are the same in all layers, without scales.

        None for other recipes, and for all but whole sources where a network says what is run.
        """
        runs = self._runs_of(recipe)
        found = None if runs is None else self._spots_of(runs)
        if found is None:
            return None
        main, path = found
        known = {source.name: source.knobs for source in recipe.sources}
        any_knobs = recipe.sources[0].knobs
        plain = (RecipeSource(name, known.get(name, any_knobs)) for name in self.sources)
        params: dict[str, float | int | bool | str] = {_MAIN: float(main)} if self._main else {}
        if self._placed is not None:
            params |= self._placed.zero
        for spot, parameter in self._indicators.items():
            usual, run = self._usual(spot, main), spot in path
            changed = 1 - self.share / 2 if run else self.share / 2
            params[parameter.name] = 0.5 if usual == run else changed
        params |= {} if self._scaled is None else self._scaled.zero
        if self.path(params) != path:
            return None
        return replace(recipe, sources=tuple(plain), slices=()), params

    def _runs_of(self, recipe: Recipe) -> list[Run] | None:
        """Return the runs of a recipe each of whose layers is of one source; None for others."""
        names = [source.name for source in recipe.sources]
        if not set(names) <= set(self.sources):
            return None
        if not recipe.slices:
            return [Run(names[0], (0, self.n_layers))] if len(names) == 1 else None
        runs = []
        for piece in recipe.slices:
            own = [name for name in piece.layers if name != recipe.base]
            if len(own) != 1 or any(piece.sources.values()) or piece.knobs:
                return None
            if piece.input_scale != 1 or len(set(piece.layers.values())) != 1:
                return None
            runs.append(Run(own[0], piece.layers[own[0]]))
        return runs

    def _spots_of(self, runs: Sequence[Run]) -> tuple[int, list[Spot]] | None:
        """Return the main source, with the fewest changes, and the first places of these runs."""
        path: list[Spot] = []
        left = iter(self.spots)
        for run in runs:
            number = self.sources.index(run.source)
            for layer in range(*run.span):
                wanted = (number, layer)
                spot = next((s for s in left if (s.source, s.layer) == wanted), None)
                if spot is None:
                    return None
                path.append(spot)
        counts = [
            sum(self._usual(spot, main) for spot in path) for main in range(len(self.sources))
        ]
        return counts.index(max(counts)), path

    def starts(self) -> Iterator[tuple[str, Recipe]]:
        """Yield names and recipes to begin with: structures that papers found to work.

        SOLAR's depth up-scaling (Kim et al. 2023, arXiv:2312.15166) of the first source, layer
        swapping (Bandarkar et al. 2024, arXiv:2410.01335) both ways round, without the averages
        where two sources meet, and a path that changes over to another source half-way.
        """
        n = self.n_layers
        fourth, half = max(n // 4, 1), max(n // 2, 1)
        found: dict[str, list[Run]] = {}
        first = self.sources[0]
        if self.rounds > 1 and n > 1:
            repeated = min(half, self.longest - n)
            end = (n + repeated) // 2
            if repeated > 0:
                found["upscaled"] = [Run(first, (0, end)), Run(first, (end - repeated, n))]
        if len(self.sources) > 1 and n > 2:
            one, other = self.sources[:2]
            found["spliced"] = [Run(one, (0, half)), Run(other, (half, n))]
            for number, (outer, inner) in enumerate(((one, other), (other, one)), start=1):
                found[f"swapped-{number}"] = [
                    Run(outer, (0, fourth)),
                    Run(inner, (fourth, n - fourth)),
                    Run(outer, (n - fourth, n)),
                ]
        plain = Recipe("linear", tuple(single(source).sources[0] for source in self.sources))
        for name, runs in found.items():
            if self._spots_of(runs) is not None:
                yield name, self._of_runs(plain, runs)

    def pull_back(
        self, recipe: Recipe, params: Params, slopes: Mapping[Coordinate, float]
    ) -> dict[Coordinate, float]:
        """Return slopes in the numbers of a recipe, given those in what `recipe` makes of it."""
        known = {source.name for source in recipe.sources}
        spans = [run.span for run in self.runs(params) if run.source in known]
        return pulled_back(recipe, spans, self.n_layers, slopes)
