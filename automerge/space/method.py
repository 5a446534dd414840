"""The search space of one merge method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from automerge.arrays import Bools, Floats
from automerge.recipe import Coordinate, Profile, Recipe, RecipeSource, Value
from automerge.space.knobs import KnobSpace, same
from automerge.space.parameters import (
    BooleanParameter,
    CategoricalParameter,
    FloatParameter,
    Parameter,
)
from automerge.trial import Params

Choose: TypeAlias = Callable[[Parameter], Value]
METHOD = "method"
_WEIGHT = "weight"


@dataclass(frozen=True)
class MethodSpace:
    """What is searched of one method.

    Attributes:
        name: the method's.
        base: the anchor; None for methods without one.
        seed: that of every recipe.
        ordered: whether the order of the models matters to the method.
        min_sources: how many models it merges at least.
        selection: chooses one of `selections`; None where there is only one.
        selections: the sets of models it may merge, by label, in the order they enter the recipe.
        used: switches that leave a model out, by model; empty where none may be.
        knobs: searched knobs of each model.
        recipe_knobs: searched knobs of the recipe.
        switches: searched switches, by knob.
        fixed: stated in every source of every recipe, by knob.
        recipe_fixed: stated in every recipe, by knob.
        defaults: what knobs of sources are worth where a recipe does not state them.
        recipe_defaults: the same for knobs of the recipe.
        evidence: digests of what the method needs, by kind and model.
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
    fixed: Mapping[str, Profile]
    recipe_fixed: Mapping[str, Profile | bool]
    defaults: Mapping[str, float]
    recipe_defaults: Mapping[str, float | bool]
    evidence: Mapping[str, Mapping[str, str]]

    def models(self, choose: Choose) -> tuple[str, ...]:
        """Choose the models that are merged.

        A model's switch is asked for only where enough models remain without it.
        """
        if self.selection is None:
            (candidates,) = self.selections.values()
        else:
            candidates = self.selections[str(choose(self.selection))]
        merged: list[str] = []
        for position, model in enumerate(candidates, start=1):
            dispensable = len(merged) + len(candidates) - position >= self.min_sources
            if not (dispensable and model in self.used) or choose(self.used[model]):
                merged.append(model)
        return tuple(merged)

    def activity(
        self, models: Sequence[str], fractions: Floats, columns: Mapping[str, int]
    ) -> Bools:
        """Mark the roles that `walk` would ask for, in many sets of parameters at once.

        Args:
            models: the set of models that is merged.
            fractions: (k, roles), parameters as fractions of their ranges.
            columns: the column of each role.

        Returns:
            (k, roles).
        """
        active = np.zeros(fractions.shape, dtype=bool)
        n_merged = np.zeros(len(fractions), dtype=np.intp)
        for position, model in enumerate(models, start=1):
            merged = np.ones(len(fractions), dtype=bool)
            if model in self.used:
                dispensable = n_merged + len(models) - position >= self.min_sources
                column = columns[self.used[model].role]
                active[:, column] = dispensable
                merged = ~dispensable | (fractions[:, column] >= 0.5)
            n_merged += merged
            for number in self.floats([model]).values():
                active[:, columns[number.role]] |= merged
        for switch in self.switches.values():
            active[:, columns[switch.role]] = True
        return active

    def floats(self, models: Iterable[str]) -> dict[str, FloatParameter]:
        """Return the number parameters of these models and of the recipe, by name, in order."""
        spaces = [*(space for model in models for space in self.knobs[model]), *self.recipe_knobs]
        return {p.name: p for space in spaces for row in space.parameters for p in row}

    def roles(self, models: Iterable[str]) -> tuple[str, ...]:
        """Return the roles of numbers and switches where these models are merged."""
        models = tuple(models)
        return (
            *(self.used[model].role for model in models if model in self.used),
            *(number.role for number in self.floats(models).values()),
            *(switch.role for switch in self.switches.values()),
        )

    def recipe(self, params: Params, dtype: str | None) -> Recipe:
        """Return the recipe of active parameters."""
        models = self.models(lambda parameter: params[parameter.name])
        sources = tuple(
            RecipeSource(model, {**self.fixed, **_profiles(self.knobs[model], params)})
            for model in models
        )
        switches = {knob: bool(params[switch.name]) for knob, switch in self.switches.items()}
        knobs = {**self.recipe_fixed, **_profiles(self.recipe_knobs, params), **switches}
        evidence = {
            kind: {model: digests[model] for model in models}
            for kind, digests in self.evidence.items()
        }
        return Recipe(self.name, sources, self.base, knobs, self.seed, dtype, evidence=evidence)

    def pull_back(
        self, params: Params, slopes: Mapping[Coordinate, float]
    ) -> Iterator[tuple[str, float]]:
        """Yield slopes per fraction of a parameter's range, by role, to be summed over equal roles.

        Args:
            params: active parameters.
            slopes: per unit of each number of their recipe.
        """
        models = self.models(lambda parameter: params[parameter.name])
        owned = [(model, space) for model in models for space in self.knobs[model]]
        for owner, space in (*owned, *((None, space) for space in self.recipe_knobs)):
            knots = {
                (at.selector, at.knot): slope
                for at, slope in slopes.items()
                if (at.source, at.knob) == (owner, space.knob)
            }
            yield from space.pull_back(params, knots).items()

    def params(self, recipe: Recipe, depths: tuple[float, ...]) -> Params | None:
        """Return parameters whose recipe gives every tensor the same values; None without any.

        A model the recipe lacks counts as left out, or as merged with weight 0.
        """
        if (recipe.method, recipe.base, recipe.seed) != (self.name, self.base, self.seed):
            return None
        for kind, digests in self.evidence.items():
            recipe_digests = recipe.evidence.get(kind, {})
            if any(recipe_digests.get(s.name) != digests[s.name] for s in recipe.sources):
                return None
        named = tuple(source.name for source in recipe.sources)
        for label, models in self.selections.items():
            present = tuple(model for model in models if model in named)
            if named != present and (self.ordered or set(named) != set(present)):
                continue
            given = self._complete(recipe, models)
            params = self._read(given, label, models, named)
            if params is not None:
                rebuilt = self._complete(self.recipe(params, recipe.dtype), models)
                if all(_equal(value, rebuilt.get(key), depths) for key, value in given.items()):
                    return params
        return None

    def _complete(
        self, recipe: Recipe, models: tuple[str, ...]
    ) -> dict[tuple[str, str], Profile | bool]:
        """Return what every knob is worth, by model ("" for the recipe's) and name."""
        sources = {source.name: source.knobs for source in recipe.sources}
        complete: dict[tuple[str, str], Profile | bool] = {}
        for model in models:
            if model in sources:
                for knob, default in self.defaults.items():
                    complete[model, knob] = sources[model].get(knob, Profile.of(default))
            else:
                complete[model, _WEIGHT] = Profile.of(0.0)
        for knob, default in self.recipe_defaults.items():
            value = recipe.knobs.get(knob, default)
            complete["", knob] = value if isinstance(value, Profile | bool) else _stated(value)
        return complete

    def _read(
        self,
        given: Mapping[tuple[str, str], Profile | bool],
        label: str,
        models: tuple[str, ...],
        named: tuple[str, ...],
    ) -> Params | None:
        params: dict[str, Value] = {METHOD: self.name}
        if self.selection is not None:
            params[self.selection.name] = label
        params |= {p.name: model in named for model, p in self.used.items() if model in models}
        # Models the recipe lacks come last: knobs that sources share are read from present ones.
        order = sorted(models, key=lambda model: model not in named)
        spaces = [(model, space) for model in order for space in self.knobs[model]]
        for model, space in [*spaces, *(("", space) for space in self.recipe_knobs)]:
            profile = given.get((model, space.knob))
            read = space.read(profile) if isinstance(profile, Profile) else space.middle()
            if read is None:
                return None
            params = {**read, **params}
        for knob, switch in self.switches.items():
            params[switch.name] = given["", knob] is True
        return params


def _profiles(spaces: Iterable[KnobSpace], params: Params) -> dict[str, Profile]:
    """Return the profiles of several knobs, by name."""
    return {space.knob: space.profile(params) for space in spaces}


def _stated(value: float | str) -> Profile:
    """Return a plain number as a profile."""
    return Profile.of(float(value))


def _equal(one: Profile | bool, other: Profile | bool | None, depths: tuple[float, ...]) -> bool:
    """Return whether two knob values do the same at these depths."""
    if isinstance(one, Profile) and isinstance(other, Profile):
        return same(one, other, depths)
    return one is other
