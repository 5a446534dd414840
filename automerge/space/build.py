"""Derive the search space from the methods' declarations."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Literal, Protocol

from automerge.errors import ConfigError, Fault, nearest
from automerge.recipe import COMPONENTS, DEFAULT, Profile, canonical
from automerge.space.knobs import KnobSpace
from automerge.space.method import MethodSpace
from automerge.space.parameters import BooleanParameter, CategoricalParameter, FloatParameter
from automerge.space.settings import Depth, Groups, Knots, SpaceSettings
from automerge.space.space import Space
from automerge.space.structure import Structure

MAX_DIMENSION = 2000
"""Most parameters of one method."""
MAX_CHOICES = 1000
"""Most sets of models of one method."""


class KnobDeclaration(Protocol):
    """What the space reads of a method's knob."""

    @property
    def name(self) -> str: ...
    @property
    def scope(self) -> Literal["source", "recipe"]: ...
    @property
    def kind(self) -> Literal["float", "bool"]: ...
    @property
    def default(self) -> float | bool: ...
    @property
    def domain(self) -> tuple[float, float]: ...
    @property
    def search(self) -> tuple[float, float] | None: ...


class MethodDeclaration(Protocol):
    """What the space reads of a method."""

    @property
    def name(self) -> str: ...
    @property
    def knobs(self) -> Sequence[KnobDeclaration]: ...
    @property
    def anchored(self) -> bool: ...
    @property
    def ordered(self) -> bool: ...
    @property
    def seeded(self) -> bool: ...
    @property
    def min_sources(self) -> int: ...
    @property
    def max_sources(self) -> int | None: ...
    @property
    def needs(self) -> Sequence[str]: ...


def build_space(
    settings: SpaceSettings,
    base: str,
    sources: Sequence[str],
    n_layers: int,
    methods: Mapping[str, MethodDeclaration],
) -> Space:
    """Build the space of recipes over `base` and `sources`, models of `n_layers` layers.

    Methods that are not anchored and take a limited number of models choose among base and
    sources, in that order, each set once: the order of two models is left to their knobs.
    Raises ConfigError with every fault found.
    """
    sources = tuple(sources)
    faults = [*model_faults(base, sources), *settings_faults(settings, n_layers, methods)]
    chosen = [methods[name] for name in dict.fromkeys(settings.methods) if name in methods]
    if not faults:
        faults += [
            fault
            for method in chosen
            for fault in size_faults(method, settings, candidates(method, base, sources), n_layers)
        ]
    if faults:
        raise ConfigError([Fault(f"search space: {message}") for message in faults])
    return Space(
        base,
        sources,
        n_layers,
        {method.name: method_space(method, settings, base, sources, n_layers) for method in chosen},
        settings.dtype,
        Structure(n_layers, settings.drop, settings.repeat)
        if settings.drop or settings.repeat
        else None,
    )


def candidates(method: MethodDeclaration, base: str, sources: tuple[str, ...]) -> tuple[str, ...]:
    """The models a method may merge, its anchor apart."""
    joins = not method.anchored and method.max_sources is not None
    return (base, *sources) if joins else sources


def searched(method: MethodDeclaration, settings: SpaceSettings) -> list[KnobDeclaration]:
    """The number knobs of a method that are searched."""
    return [
        knob
        for knob in method.knobs
        if knob.kind == "float"
        and knob.name not in settings.fixed
        and (knob.search is not None or knob.name in settings.bounds)
    ]


def width(knob: KnobDeclaration, settings: SpaceSettings, n_layers: int) -> tuple[int, int]:
    """Groups and entries a group of one knob."""
    if knob.name not in settings.varying:
        return 1, 1
    return len(settings.components), entries(settings.depth, n_layers)


def entries(depth: Depth, n_layers: int) -> int:
    """Values over depth: as many as asked for, up to one a layer."""
    count = depth.count if isinstance(depth, Knots | Groups) else n_layers
    return min(count, n_layers)


def model_faults(base: str, sources: tuple[str, ...]) -> Iterable[str]:
    """List what is wrong with the models."""
    if not sources:
        yield "there is no source model; name at least one fine-tune of the base"
    for name, times in Counter(sources).items():
        if times > 1:
            yield f"source {name!r} is listed {times} times; list it once"
    if base in sources:
        yield f"{base!r} is the base and a source: its task vector is zero; remove the source"


def settings_faults(
    settings: SpaceSettings, n_layers: int, methods: Mapping[str, MethodDeclaration]
) -> Iterable[str]:
    """List what is wrong with the settings, whatever the models."""
    if n_layers < 1:
        yield f"the models need at least 1 layer; got {n_layers}"
    if settings.drop >= n_layers > 0:
        yield f"at least 1 of {n_layers} layers is left; got drop: {settings.drop}"
    if settings.repeat > n_layers > 0:
        yield f"at most all {n_layers} layers are run twice; got repeat: {settings.repeat}"
    if not settings.methods:
        yield f"no method is named; choose from {', '.join(methods)}"
    for name in settings.methods:
        if name not in methods:
            yield f"unknown method {name!r}{nearest(name, tuple(methods))}"
        for kind in methods[name].needs if name in methods else ():
            if kind not in settings.evidence:
                yield f"{name} needs evidence of the kind {kind}; set `evidence: {{text: FILE}}`"
    if isinstance(settings.depth, Knots | Groups) and settings.depth.count < 1:
        yield f"depth needs at least 1 value; got {settings.depth.count}"
    yield from component_faults(settings.components)
    yield from knob_faults(settings, [methods[n] for n in settings.methods if n in methods])


def component_faults(components: tuple[tuple[str, ...], ...]) -> Iterable[str]:
    """List what is wrong with the component groups."""
    selectors = [selector for group in components for selector in group]
    if not all(components):
        yield "a component group is empty; name at least one component in it"
    for selector in dict.fromkeys(selectors):
        if selectors.count(selector) > 1:
            yield f"component {selector!r} is in two groups; name it once"
        if selector not in (*COMPONENTS, DEFAULT) and "*" not in selector:
            yield f"unknown component {selector!r}{nearest(selector, (*COMPONENTS, DEFAULT))}"
    if DEFAULT not in selectors and not set(COMPONENTS) <= set(selectors):
        missing = ", ".join(c for c in COMPONENTS if c not in selectors)
        yield f"no component group covers {missing}; add a group {DEFAULT!r} for the rest"


def knob_faults(settings: SpaceSettings, methods: Sequence[MethodDeclaration]) -> Iterable[str]:
    """List what is wrong with bounds, fixed values and switches."""
    knobs = {knob.name: knob for method in methods for knob in method.knobs}
    for name in (*settings.bounds, *settings.fixed, *settings.switches, *settings.shared):
        if methods and name not in knobs:
            yield f"no chosen method has a knob {name!r}{nearest(name, tuple(knobs))}"
    for name in settings.fixed:
        if name in settings.bounds or name in settings.switches:
            yield f"{name!r} is fixed and searched; keep one of the two"
    for method in methods:
        for knob in method.knobs:
            where = f"{method.name}.{knob.name}"
            if knob.name in settings.bounds:
                yield from bound_faults(where, knob, settings.bounds[knob.name])
            if knob.name in settings.fixed:
                yield from fixed_faults(where, knob, settings.fixed[knob.name])
            if knob.name in settings.switches and knob.kind != "bool":
                yield f"{where} is a number, not a switch; give it bounds"


def bound_faults(where: str, knob: KnobDeclaration, bounds: tuple[float, float]) -> Iterable[str]:
    """List what is wrong with the bounds of one knob."""
    low, high = bounds
    if knob.kind == "bool":
        yield f"{where} is true or false and has no bounds; name it in `switches`"
    elif not (math.isfinite(low) and math.isfinite(high)) or low > high:
        yield f"{where}: bounds must be two finite numbers, the lower first; got [{low}, {high}]"
    elif canonical(low) == canonical(high):
        yield f"{where}: the bounds are both {low:g}; fix the value instead"
    elif low < knob.domain[0] or high > knob.domain[1]:
        yield (
            f"{where}: bounds [{low:g}, {high:g}] leave what the method allows, "
            f"[{knob.domain[0]:g}, {knob.domain[1]:g}]"
        )


def fixed_faults(where: str, knob: KnobDeclaration, value: float | bool) -> Iterable[str]:
    """List what is wrong with the fixed value of one knob."""
    if knob.kind == "bool":
        if not isinstance(value, bool):
            yield f"{where} is true or false; got {value!r}"
    elif isinstance(value, bool) or not isinstance(value, int | float):
        yield f"{where} is a number; got {value!r}"
    elif not knob.domain[0] <= value <= knob.domain[1]:
        yield f"{where} must lie in [{knob.domain[0]:g}, {knob.domain[1]:g}]; got {value:g}"


def size_faults(
    method: MethodDeclaration, settings: SpaceSettings, models: tuple[str, ...], n_layers: int
) -> Iterable[str]:
    """Refuse methods with too few models, and spaces too large to search."""
    if len(models) < method.min_sources:
        yield f"{method.name} merges at least {method.min_sources} models; got {len(models)}"
        return
    size = len(models) if method.max_sources is None else min(method.max_sources, len(models))
    sets = math.comb(len(models), size)
    if sets > MAX_CHOICES:
        yield (
            f"{method.name} has {sets} sets of {size} models out of {len(models)}, more than "
            f"{MAX_CHOICES}; name fewer sources"
        )
    dimension = 0
    for knob in searched(method, settings):
        rows, columns = width(knob, settings, n_layers)
        each = knob.scope == "source" and knob.name not in settings.shared
        dimension += rows * columns * (len(models) if each else 1)
    if dimension > MAX_DIMENSION:
        yield (
            f"{method.name} has {dimension} dimensions, more than {MAX_DIMENSION}; use fewer "
            f"depth values ({entries(settings.depth, n_layers)}), component groups "
            f"({len(settings.components)}) or sources ({len(models)})"
        )


def method_space(
    method: MethodDeclaration,
    settings: SpaceSettings,
    base: str,
    sources: tuple[str, ...],
    n_layers: int,
) -> MethodSpace:
    """Build one method's part; the settings have no faults."""
    models = candidates(method, base, sources)
    size = len(models) if method.max_sources is None else min(method.max_sources, len(models))
    selections = {" + ".join(names): names for names in combinations(models, size)}
    single = len(selections) == 1
    knobs = searched(method, settings)
    per_source = [knob for knob in knobs if knob.scope == "source"]
    droppable = models if settings.leave_out and method.min_sources < size else ()
    fixed = {
        scope: {
            knob.name: value if isinstance(value, bool) else Profile.of(value)
            for knob in method.knobs
            if knob.scope == scope and knob.name in settings.fixed
            for value in (settings.fixed[knob.name],)
        }
        for scope in ("source", "recipe")
    }
    return MethodSpace(
        name=method.name,
        base=base if method.anchored else None,
        seed=settings.seed if method.seeded else 0,
        ordered=method.ordered,
        min_sources=method.min_sources,
        selection=None
        if single
        else CategoricalParameter(f"{method.name}.models", tuple(selections)),
        selections=selections,
        used={model: switch(method.name, f"use[{model}]") for model in droppable},
        knobs={
            model: tuple(
                knob_space(
                    method.name,
                    knob,
                    settings,
                    n_layers,
                    "" if knob.name in settings.shared else f"[{model}]",
                )
                for knob in per_source
            )
            for model in models
        },
        recipe_knobs=tuple(
            knob_space(method.name, knob, settings, n_layers, "")
            for knob in knobs
            if knob.scope == "recipe"
        ),
        switches={
            knob.name: switch(method.name, knob.name)
            for knob in method.knobs
            if knob.kind == "bool" and knob.name in settings.switches
        },
        fixed={k: v for k, v in fixed["source"].items() if isinstance(v, Profile)},
        recipe_fixed=fixed["recipe"],
        defaults={k.name: float(k.default) for k in method.knobs if k.scope == "source"},
        recipe_defaults={k.name: k.default for k in method.knobs if k.scope == "recipe"},
        evidence={kind: settings.evidence[kind] for kind in method.needs},
    )


def switch(method: str, role: str) -> BooleanParameter:
    """A boolean parameter."""
    return BooleanParameter(f"{method}.{role}", role)


def knob_space(
    method: str, knob: KnobDeclaration, settings: SpaceSettings, n_layers: int, owner: str
) -> KnobSpace:
    """Lay one knob out over component groups and depth."""
    low, high = settings.bounds.get(knob.name, knob.search or knob.domain)
    rows, columns = width(knob, settings, n_layers)
    groups = settings.components if rows > 1 else ((DEFAULT,),)
    if isinstance(settings.depth, Groups) and columns > 1:
        spread = tuple(layer * columns // n_layers for layer in range(n_layers))
        middles = [[i for i, entry in enumerate(spread) if entry == j] for j in range(columns)]
        depths = tuple(run[len(run) // 2] / (n_layers - 1) for run in middles)
    else:
        spread = tuple(range(columns))
        depths = tuple(j / max(columns - 1, 1) for j in range(columns))
    rowed = []
    for group in groups:
        part = "" if group == (DEFAULT,) else f".{'+'.join(group)}"
        roles = [
            f"{knob.name}{owner}{part}{f'.{j}' if columns > 1 else ''}" for j in range(columns)
        ]
        rowed.append(
            tuple(
                FloatParameter(f"{method}.{role}", role, canonical(low), canonical(high))
                for role in roles
            )
        )
    return KnobSpace(knob.name, groups, tuple(rowed), spread, depths)
