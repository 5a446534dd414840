"""Which tensors of which models are merged into each tensor of a merged model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from automerge.checkpoints.places import LAYER, places
from automerge.checkpoints.reader import shown
from automerge.errors import Fault, PreflightError
from automerge.recipe import Place, Recipe


class Stored(NamedTuple):
    """A stored tensor, by the names of its model and of itself."""

    model: str
    tensor: str


@dataclass(frozen=True)
class Target:
    """A tensor of the merged model: its place, the part of the recipe that makes it, its origins.

    `stored` has one origin for each model; `reference` is the one whose shape and dtype it has.
    """

    place: Place
    part: int
    reference: Stored
    stored: Mapping[str, Stored]


def layout(recipe: Recipe, names: Mapping[str, Iterable[str]]) -> list[Target]:
    """List the merged model's tensors in order.

    Without slices, they are those of the reference model, and have the same names in all models.

    Args:
        recipe: the recipe.
        names: the names of each model's tensors.

    Raises:
        PreflightError: a slice asks for layers that a model does not have.
    """
    if recipe.slices:
        return _Stack(recipe, names).targets()
    reference = reference_model(recipe)
    return [
        Target(
            place,
            0,
            Stored(reference, name),
            {model: Stored(model, name) for model in recipe.models},
        )
        for name, place in places(names[reference]).items()
    ]


def reference_model(recipe: Recipe) -> str:
    """Return the model whose configuration, tokenizer, dtype and integer tensors the result has."""
    return recipe.base if recipe.base is not None else recipe.sources[0].name


def stacks(names: Iterable[str]) -> dict[str, int]:
    """Return the number of layers of each stack, by the beginning of its tensors' names."""
    found: dict[str, int] = {}
    for name in names:
        if match := LAYER.match(name):
            stack = match[1] or ""
            found[stack] = max(found.get(stack, 0), int(match[2]) + 1)
    return found


class _Stack:
    """Lays out a recipe with slices."""

    def __init__(self, recipe: Recipe, names: Mapping[str, Iterable[str]]) -> None:
        self._recipe = recipe
        self._names = {model: tuple(names[model]) for model in recipe.models}
        self._placed = {model: places(own) for model, own in self._names.items()}
        self._faults: list[str] = []

    def targets(self) -> list[Target]:
        self._check()
        if self._faults:
            raise PreflightError(map(Fault, self._faults))
        parts = self._recipe.parts
        targets = self._outer(parts[0], 0, 0.0)
        first = 0
        for i, piece in enumerate(self._recipe.slices):
            for layer in range(piece.n_layers):
                last = piece.n_layers - 1
                depth = layer / last if last else 1.0
                targets += self._layer(parts[i], i, layer, first + layer, depth)
            first += piece.n_layers
        targets += self._outer(parts[-1], len(parts) - 1, 1.0)
        if self._faults:
            raise PreflightError(map(Fault, self._faults))
        return targets

    def _check(self) -> None:
        counts: dict[str, int] = {}
        for model, names in self._names.items():
            found = stacks(names)
            if len(found) != 1:
                have = ", ".join(f"{stack} ({n} layers)" for stack, n in found.items()) or "none"
                self._faults.append(f"slices need one stack of layers; {model} has {have}")
            else:
                (counts[model],) = found.values()
        for i, piece in enumerate(self._recipe.slices, start=1):
            self._faults += [
                f"slice {i}: {model} has {counts[model]} layers; got [{start}, {stop}]"
                for model, (start, stop) in piece.layers.items()
                if stop > counts.get(model, stop)
            ]

    def _outer(self, part: Recipe, index: int, depth: float) -> list[Target]:
        """Return the tensors before the layers (depth 0) or after them (depth 1)."""
        reference = reference_model(part)
        return [
            self._target(part, index, place, dict.fromkeys(part.models, place.tensor))
            for place in self._placed[reference].values()
            if place.layer is None and place.depth == depth
        ]

    def _layer(
        self, part: Recipe, index: int, layer: int, number: int, depth: float
    ) -> list[Target]:
        """Return the tensors of a slice's layer, which becomes layer `number` of the result."""
        starts = {model: span[0] for model, span in self._recipe.slices[index].layers.items()}
        reference = reference_model(part)
        targets = []
        for place in self._placed[reference].values():
            if place.layer == starts[reference] + layer:
                stored = {m: renumbered(place.tensor, starts[m] + layer) for m in part.models}
                name = renumbered(place.tensor, number)
                here = Place(name, place.component, depth, number)
                targets.append(self._target(part, index, here, stored))
        return targets

    def _target(self, part: Recipe, index: int, place: Place, stored: Mapping[str, str]) -> Target:
        lacking = [f"{m}'s {name}" for m, name in stored.items() if name not in self._placed[m]]
        if lacking:
            self._faults.append(f"slice {index + 1}: missing {shown(lacking)}")
        origins = {model: Stored(model, name) for model, name in stored.items()}
        return Target(place, index, origins[reference_model(part)], origins)


def renumbered(name: str, layer: int) -> str:
    """Return the name of a layer's tensor with the number of another layer."""
    match = LAYER.match(name)
    if match is None:
        raise ValueError(f"{name!r} is not in a layer")
    return ".".join([*([match[1]] if match[1] else []), str(layer), match[3]])
