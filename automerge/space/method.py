"""The search space of one merge method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from automerge.arrays import Bools, Floats
from automerge.recipe import DEFAULT, Coordinate, Profile, Recipe, RecipeSource, Value
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
class Switch:
    """A searched switch, of the group of tensors with a selector; None for all tensors."""

    knob: str
    selector: str | None
    parameter: BooleanParameter


@dataclass(frozen=True)
class MethodSpace:
    """What is searched of one method, or of one method for each group of tensors.

    Attributes:
        name: the method's name, or a label for all of them.
        parts: the method of each group, by its selector; the last is `default`.
        base: the anchor; None for methods without one.
        seed: that of every recipe.
        ordered: whether the order of the models matters to the method.
        min_sources: how many models it merges at least.
        selection: chooses one of `selections`; None where there is only one.
        selections: the sets of models it may merge, by label, in the order they enter the recipe.
        used: switches that leave a model out, by model; empty where none may be.
        knobs: searched knobs of each model.
        recipe_knobs: searched knobs of the recipe.
        switches: searched switches.
        fixed: stated in every source of every recipe, by knob.
        recipe_fixed: stated in every recipe, by knob.
        held: values of knobs, by knob and group, of groups that do not search what others do.
        readers: the groups whose methods have a knob, by knob.
        defaults: what knobs of sources are worth where a recipe does not state them.
        recipe_defaults: the same for knobs of the recipe.
        evidence: digests of what the method needs, by kind and model.
    """

    name: str
    parts: tuple[tuple[str, str], ...]
    base: str | None
    seed: int
    ordered: bool
    min_sources: int
    selection: CategoricalParameter | None
    selections: Mapping[str, tuple[str, ...]]
    used: Mapping[str, BooleanParameter]
    knobs: Mapping[str, tuple[KnobSpace, ...]]
    recipe_knobs: tuple[KnobSpace, ...]
    switches: tuple[Switch, ...]
    fixed: Mapping[str, Profile]
    recipe_fixed: Mapping[str, Profile | bool]
    held: Mapping[str, Mapping[str, float]]
    readers: Mapping[str, tuple[str, ...]]
    defaults: Mapping[str, Profile]
    recipe_defaults: Mapping[str, Profile | bool]
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
        for switch in self.switches:
            active[:, columns[switch.parameter.role]] = True
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
            *(switch.parameter.role for switch in self.switches),
        )

    def recipe(self, params: Params, dtype: str | None) -> Recipe:
        """Return the recipe of active parameters."""
        models = self.models(lambda parameter: params[parameter.name])
        sources = tuple(
            RecipeSource(model, {**self.fixed, **self._profiles(self.knobs[model], params)})
            for model in models
        )
        switches = _switched(self.switches, params)
        knobs = {**self.recipe_fixed, **self._profiles(self.recipe_knobs, params), **switches}
        evidence = {
            kind: {model: digests[model] for model in models}
            for kind, digests in self.evidence.items()
        }
        *others, (_, method) = self.parts
        return Recipe(
            method,
            sources,
            self.base,
            knobs,
            self.seed,
            dtype,
            evidence=evidence,
            methods=tuple(others),
        )

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
        if (recipe.base, recipe.seed) != (self.base, self.seed) or not self._alike(recipe):
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
                if all(
                    self._equal(key[1], value, rebuilt.get(key), depths)
                    for key, value in given.items()
                ):
                    return params
        return None

    def _equal(
        self,
        knob: str,
        one: Profile | bool,
        other: Profile | bool | None,
        depths: tuple[float, ...],
    ) -> bool:
        """Return whether two values of a knob have the same effect at these depths."""
        if isinstance(one, bool) and isinstance(other, bool):
            return one is other
        if other is None:
            return False
        left, right = (v if isinstance(v, Profile) else Profile.of(float(v)) for v in (one, other))
        if len(self.parts) == 1:
            return same(left, right, depths)
        order = [selector for selector, _ in self.parts]
        for profile in (left, right):
            given = [selector for selector, _ in profile.parts]
            if given != [selector for selector in order if selector in given]:
                return False
        return same(left, right, depths, self.readers[knob])

    def _profiles(self, spaces: Iterable[KnobSpace], params: Params) -> dict[str, Profile]:
        """Return the profiles of several knobs, by name; each group has a part, in order."""
        found: dict[str, list[tuple[str, tuple[float, ...]]]] = {}
        for space in spaces:
            found.setdefault(space.knob, []).extend(space.profile(params).parts)
        if len(self.parts) == 1:
            return {knob: Profile(tuple(parts)) for knob, parts in found.items()}
        profiles = {}
        for knob, parts in found.items():
            by_group = {s: (value,) for s, value in self.held.get(knob, {}).items()} | dict(parts)
            ordered = ((s, by_group[s]) for s, _ in self.parts if s in by_group)
            profiles[knob] = Profile(tuple(ordered))
        return profiles

    def _alike(self, recipe: Recipe) -> bool:
        """Return whether a recipe merges every group by this method."""
        theirs = recipe.by_selector
        return [s for s, _ in self.parts if s in theirs] == list(theirs) and all(
            theirs.get(selector, recipe.method) == method for selector, method in self.parts
        )

    def _complete(
        self, recipe: Recipe, models: tuple[str, ...]
    ) -> dict[tuple[str, str], Profile | bool]:
        """Return what every knob is worth, by model ("" for the recipe's) and name."""
        sources = {source.name: source.knobs for source in recipe.sources}
        complete: dict[tuple[str, str], Profile | bool] = {}
        for model in models:
            if model in sources:
                for knob, default in self.defaults.items():
                    complete[model, knob] = sources[model].get(knob, default)
            else:
                complete[model, _WEIGHT] = Profile.of(0.0)
        for knob, usual in self.recipe_defaults.items():
            value = recipe.knobs.get(knob, usual)
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
        for switch in self.switches:
            on = given["", switch.knob]
            params[switch.parameter.name] = (
                on if isinstance(on, bool) else _is_on(on, switch.selector or DEFAULT)
            )
        return params


def _switched(switches: Iterable[Switch], params: Params) -> dict[str, Profile | bool]:
    """Return switches by knob: on or off, or by group as 1 or 0."""
    plain: dict[str, Profile | bool] = {}
    groups: dict[str, dict[str, float]] = {}
    for switch in switches:
        on = bool(params[switch.parameter.name])
        if switch.selector is None:
            plain[switch.knob] = on
        else:
            groups.setdefault(switch.knob, {})[switch.selector] = float(on)
    return {**plain, **{knob: Profile.of(found) for knob, found in groups.items()}}


def _is_on(profile: Profile, selector: str) -> bool:
    by_selector = dict(profile.parts)
    return bool(by_selector.get(selector, by_selector.get(DEFAULT, (0.0,)))[0])


def _stated(value: float | str) -> Profile:
    """Return a plain number as a profile."""
    return Profile.of(float(value))
