"""What is searched, as configured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from automerge.config.section import (
    KEY,
    Problem,
    Section,
    entry_of,
    one_of,
    refuse,
    repeated,
    unsafe,
)
from automerge.errors import nearest
from automerge.expert_groups import BY
from automerge.methods import METHODS, Knob
from automerge.mixture import GATES, HIDDEN, RANDOM, UNIFORM
from automerge.recipe import DEFAULT
from automerge.space import Groups, Knots, PerLayer, SpaceSettings
from automerge.space.checks import component_faults, range_faults
from automerge.space.experts import ExpertSettings
from automerge.space.flow import usual_longest
from automerge.space.mixtures import MixtureSettings


class Depth(Section):
    """How values vary over the layers; exactly one is given."""

    knots: int | None = unsafe(None, ge=1, le=64)
    groups: int | None = unsafe(None, ge=1, le=1000)
    per_layer: Literal[True] | None = unsafe(None)

    @model_validator(mode="after")
    def _one_kind(self) -> Depth:
        if [self.knots, self.groups, self.per_layer].count(None) != 2:
            refuse([((), "use exactly one of {knots: N}, {groups: N} and per_layer")])
        return self

    def for_space(self) -> Knots | Groups | PerLayer:
        """Return the same as the search space's depth."""
        if self.knots is not None:
            return Knots(self.knots)
        return PerLayer() if self.groups is None else Groups(self.groups)


class Mixtures(Section):
    """Mixtures of experts, of the sources' feed-forward parts.

    `gates` are the kinds to choose from; without it, uniform ones and, where the study has
    evidence, hidden ones, otherwise random ones.
    """

    gates: tuple[Annotated[str, one_of(GATES, "gates")], ...] | None = unsafe(None, min_length=1)
    per_token: int | None = unsafe(None, ge=1, le=1000)
    dense: bool = unsafe(True)

    @field_validator("gates")
    @classmethod
    def _each_once(cls, gates: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if problems := repeated(gates or (), "kind of gates"):
            refuse(problems)
        return gates

    def chosen(self, evidence: bool) -> tuple[str, ...]:
        """Return the kinds of gates to choose from, in a study with or without evidence."""
        return self.gates or (UNIFORM, HIDDEN if evidence else RANDOM)


class Experts(Section):
    """How many experts the layers of mixtures may keep, and what they may be grouped by."""

    count: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = unsafe(min_length=1, max_length=64)
    by: tuple[Annotated[str, one_of(BY, "grouping")], ...] = unsafe(BY, min_length=1)

    @field_validator("count")
    @classmethod
    def _ascending(cls, counts: tuple[int, ...]) -> tuple[int, ...]:
        if problems := repeated(list(map(str, counts)), "number of experts"):
            refuse(problems)
        return tuple(sorted(counts))

    @field_validator("by")
    @classmethod
    def _each_once(cls, by: tuple[str, ...]) -> tuple[str, ...]:
        if problems := repeated(by, "grouping"):
            refuse(problems)
        return by


class Layers(Section):
    """How many neighbouring layers a merge may drop or repeat, or whether sources swap theirs.

    Or two sources change places at a layer, by `crossing`. Or paths are searched: a path leads
    through the layers of all sources, laid out `rounds` times. Or layers have experts, as `mixture`
    says, or fewer than the models', as `experts` says.
    """

    drop: int = unsafe(0, ge=0, le=1000)
    repeat: int = unsafe(0, ge=0, le=1000)
    swap: bool = unsafe(False)
    crossing: bool = unsafe(False)
    rounds: int = unsafe(0, ge=0, le=16)
    scale: float = unsafe(1.0, ge=1, le=8)
    longest: int | None = unsafe(None, ge=1, le=1000)
    network: bool | None = unsafe(None)
    mixture: Mixtures | None = unsafe(None)
    experts: Experts | None = unsafe(None)

    @property
    def others(self) -> bool:
        """Whether a merge may have other layers than the base."""
        changed = self.drop or self.repeat or self.rounds
        return bool(changed) or self.mixture is not None or self.experts is not None

    def added(self, n_layers: int) -> int:
        """Return how many layers more than a model of `n_layers` a merge may have."""
        longest = self.longest or usual_longest(n_layers)
        return max(self.repeat, longest - n_layers if self.rounds else 0)


SEARCHED = ("linear", "task_arithmetic", "ties", "dare_ties")
"""Default methods: averages, and task vectors kept dense, trimmed and randomly dropped."""


class Search(Section):
    """What is searched.

    `components` are groups of selectors that share a value. `by_group` has the methods to choose
    from for the tensors that a selector selects, the first that does deciding; without it, one of
    `methods` merges the whole model. `knobs` maps a method's knob to its
    bounds, to `[false, true]` for a switch, or to a fixed value.
    """

    methods: tuple[Annotated[str, entry_of(METHODS)], ...] = unsafe(SEARCHED, min_length=1)
    depth: Depth = unsafe(Depth(knots=3))
    components: tuple[tuple[str, ...], ...] = unsafe(((DEFAULT,),), min_length=1, max_length=64)
    by_group: dict[str, tuple[Annotated[str, entry_of(METHODS)], ...]] = unsafe({})
    knobs: dict[str, Any] = unsafe({})
    deviation: float = unsafe(0.05, gt=0, le=0.25)
    varying: tuple[str, ...] = unsafe(("weight", "t"))
    shared: tuple[str, ...] = unsafe(())
    leave_out: bool = unsafe(True)
    layers: Layers = unsafe(Layers())
    cheap_first: bool = unsafe(False)
    calibrate: Literal["repair"] | None = unsafe(None)

    @field_validator("methods")
    @classmethod
    def _each_once(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        if problems := repeated(methods, "method"):
            refuse(problems)
        return methods

    @field_validator("components")
    @classmethod
    def _selectors(cls, groups: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
        if problems := list(component_faults(groups)):
            refuse(problems)
        return groups

    @field_validator("by_group")
    @classmethod
    def _groups(
        cls, groups: dict[str, tuple[str, ...]], info: ValidationInfo
    ) -> dict[str, tuple[str, ...]]:
        problems: list[Problem] = []
        for selector, names in groups.items():
            if faults := list(component_faults([[selector]])):
                problems += (((selector, KEY), problem) for _, problem in faults)
            if not names:
                problems.append(((selector,), "expected a method, or a list of methods"))
            problems += (((selector, *at), what) for at, what in repeated(names, "method"))
        if groups and DEFAULT not in groups:
            problem = "no method for the rest: add `other`, all that no other group selects"
            problems.append(((), problem))
        if groups and info.data.get("components", ((DEFAULT,),)) != ((DEFAULT,),):
            problem = "methods by group are values by group too: remove `components`"
            problems.append(((), problem))
        if problems:
            refuse(problems)
        return dict(sorted(groups.items(), key=lambda group: group[0] == DEFAULT))

    @field_validator("knobs")
    @classmethod
    def _knobs(cls, knobs: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        methods = info.data.get("methods", SEARCHED)
        declared, known = declared_knobs(methods), known_knobs(methods)
        fields = tuple(name for name in cls.model_fields if name not in ("knobs", "by_group"))
        valid = (*fields, "space", *known)
        problems: list[Problem] = []
        for name, value in knobs.items():
            if name in declared:
                problems += (((name,), problem) for problem in range_faults(declared[name], value))
            elif name in known:
                names = ", ".join(methods)
                problems.append(((name, KEY), f"none of the methods {names} has a {name!r}"))
            else:
                problems.append(((name, KEY), f"unknown key {name!r}{nearest(name, valid)}"))
        if problems:
            refuse(problems)
        return {k: tuple(v) if isinstance(v, list) else v for k, v in knobs.items()}

    @field_validator("varying", "shared")
    @classmethod
    def _knob_names(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        valid = tuple(known_knobs(info.data.get("methods", SEARCHED)))
        problems = repeated(names, "knob")
        for i, name in enumerate(names):
            if name not in valid:
                problems.append(((i,), f"unknown knob {name!r}{nearest(name, valid)}"))
        if problems:
            refuse(problems)
        return names

    def for_space(
        self, seed: int, noise: tuple[str, ...] = (), evidence: bool = False
    ) -> SpaceSettings:
        """Return the same as the search space's settings.

        `seed` is that of random masks, `noise` the names of sources that are noise; `evidence` says
        whether the study has any.
        """
        mixture, experts = self.layers.mixture, self.layers.experts
        ranges = {k: v for k, v in self.knobs.items() if isinstance(v, tuple)}
        declared = declared_knobs(self.methods)
        switches = tuple(k for k in ranges if declared[k].kind == "bool")
        return SpaceSettings(
            methods=self.methods,
            components=self.components,
            depth=self.depth.for_space(),
            bounds={k: v for k, v in ranges.items() if k not in switches},
            fixed={k: v for k, v in self.knobs.items() if k not in ranges},
            switches=switches,
            deviation=self.deviation,
            varying=self.varying,
            shared=self.shared,
            leave_out=self.leave_out,
            drop=self.layers.drop,
            repeat=self.layers.repeat,
            swap=self.layers.swap,
            crossing=self.layers.crossing,
            mixture=None
            if mixture is None
            else MixtureSettings(mixture.chosen(evidence), mixture.per_token, mixture.dense),
            experts=None if experts is None else ExpertSettings(experts.count, experts.by),
            rounds=self.layers.rounds,
            scale=self.layers.scale,
            longest=self.layers.longest,
            network=self.layers.network,
            seed=seed,
            noise=noise,
            calibrate=self.calibrate is not None,
            by_group=self.by_group if len(self.by_group) > 1 else {},
        )


def as_written(search: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON values of a `Search` as a user writes them: knobs, and methods by selector."""
    written = {key: value for key, value in search.items() if key not in ("knobs", "by_group")}
    written |= search.get("knobs", {})
    if "by_group" in search:
        written["methods"] = search["by_group"]
    return written


def declared_knobs(methods: Sequence[str]) -> dict[str, Knob]:
    """Return the knobs of some methods, by name."""
    return {knob.name: knob for method in methods for knob in METHODS[method].knobs}


def known_knobs(methods: Sequence[str]) -> dict[str, Knob]:
    """Return the knobs of the built-in methods and of some others, by name."""
    return declared_knobs((*METHODS.own, *methods))
