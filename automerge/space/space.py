"""A conditional search space over recipes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from automerge.recipe import Profile, Recipe, RecipeSource
from automerge.recipe import Value as KnobValue
from automerge.space.knobs import KnobSpace, same
from automerge.space.parameters import (
    BooleanParameter,
    CategoricalParameter,
    FloatParameter,
    Parameter,
)
from automerge.trial import Params

Value: TypeAlias = float | int | bool | str
Choose: TypeAlias = Callable[[Parameter], Value]
WEIGHT = "weight"


@dataclass(frozen=True)
class MethodSpace:
    """The parameters of one method.

    `selections` are the sets of models it may merge, each in the order it enters the recipe;
    `selection` chooses one, and is None where there is one only. `used` are the switches that
    leave a model out, empty where none may be. `knobs` are each model's own searched knobs.
    `constants` and `recipe_constants` are what knobs without search are worth: fixed values,
    which recipes state, and defaults, which they leave unsaid (`unsaid`).
    """

    name: str
    base: str | None
    seed: int
    ordered: bool
    min_sources: int
    selection: CategoricalParameter | None
    selections: Mapping[str, tuple[str, ...]]
    used: Mapping[str, BooleanParameter]
    knobs: Mapping[str, tuple[KnobSpace, ...]]
    recipe_knobs: tuple[KnobSpace, ...]
    switches: Mapping[str, BooleanParameter]
    constants: Mapping[str, Profile]
    recipe_constants: Mapping[str, Profile | bool]
    unsaid: frozenset[str]
    defaults: Mapping[str, float | bool]

    def models(self, take: Choose) -> tuple[str, ...]:
        """Choose the models that are merged.

        A model is asked about only where enough would be left without it.
        """
        if self.selection is None:
            (chosen,) = self.selections.values()
        else:
            chosen = self.selections[str(take(self.selection))]
        kept: list[str] = []
        for position, model in enumerate(chosen, start=1):
            dispensable = len(kept) + len(chosen) - position >= self.min_sources
            if not (dispensable and model in self.used) or take(self.used[model]):
                kept.append(model)
        return tuple(kept)

    def floats(self, models: Iterable[str]) -> dict[str, FloatParameter]:
        """The numbers of these models and of the recipe, by name, in order."""
        spaces = [*(knob for model in models for knob in self.knobs[model]), *self.recipe_knobs]
        return {p.name: p for space in spaces for row in space.parameters for p in row}

    def recipe(self, params: Params, dtype: str | None) -> Recipe:
        """The recipe of active parameters."""
        models = self.models(lambda parameter: params[parameter.name])
        stated = {k: v for k, v in self.constants.items() if k not in self.unsaid}
        knobs: dict[str, Profile | KnobValue] = {
            k: v for k, v in self.recipe_constants.items() if k not in self.unsaid
        }
        knobs |= {space.knob: space.profile(params) for space in self.recipe_knobs}
        knobs |= {knob: bool(params[switch.name]) for knob, switch in self.switches.items()}
        sources = tuple(
            RecipeSource(
                model,
                stated | {space.knob: space.profile(params) for space in self.knobs[model]},
            )
            for model in models
        )
        return Recipe(self.name, sources, self.base, knobs, self.seed, dtype)

    def read(self, recipe: Recipe, depths: tuple[float, ...]) -> Params | None:
        """Parameters whose recipe is equivalent; None where there are none.

        A model the recipe lacks counts as left out, or as present with weight 0.
        """
        named = tuple(source.name for source in recipe.sources)
        for label, models in self.selections.items():
            in_order = tuple(model for model in models if model in named)
            if named == in_order or (not self.ordered and set(named) == set(in_order)):
                params = self._read(recipe, label, models)
                if params is not None and self._equivalent(recipe, params, depths):
                    return params
        return None

    def _read(self, recipe: Recipe, label: str, models: tuple[str, ...]) -> Params | None:
        given = {source.name: source.knobs for source in recipe.sources}
        params: dict[str, Value] = {"method": self.name}
        if self.selection is not None:
            params[self.selection.name] = label
        params |= {p.name: model in given for model, p in self.used.items() if model in models}
        for model in models:
            for space in self.knobs[model]:
                fallback = 0.0 if model not in given and space.knob == WEIGHT else None
                read = space.read(self._stated(given.get(model, {}), space.knob, fallback))
                if read is None:
                    return None
                # A knob shared by all sources is read from those the recipe has.
                params |= {k: v for k, v in read.items() if model in given or k not in params}
        for space in self.recipe_knobs:
            read = space.read(self._stated(recipe.knobs, space.knob))
            if read is None:
                return None
            params |= read
        for knob, switch in self.switches.items():
            params[switch.name] = bool(recipe.knobs.get(knob, self.defaults[knob]))
        return params

    def _stated(
        self, knobs: Mapping[str, object], knob: str, fallback: float | None = None
    ) -> Profile:
        value = knobs.get(knob, self.defaults[knob] if fallback is None else fallback)
        return value if isinstance(value, Profile) else Profile.of(float(str(value)))

    def _equivalent(self, recipe: Recipe, params: Params, depths: tuple[float, ...]) -> bool:
        rebuilt = self.recipe(params, recipe.dtype)
        given = {source.name: source.knobs for source in recipe.sources}
        for source in rebuilt.sources:
            if source.name not in given:
                weight = source.knobs.get(WEIGHT)
                if weight is None or not same(Profile.of(0.0), weight, depths):
                    return False
                continue
            for knob, constant in self.constants.items():
                if not same(self._stated(given[source.name], knob), constant, depths):
                    return False
            for space in self.knobs[source.name]:
                stated = self._stated(given[source.name], space.knob)
                if not same(stated, source.knobs[space.knob], depths):
                    return False
        return self._equivalent_knobs(recipe, rebuilt, depths)
