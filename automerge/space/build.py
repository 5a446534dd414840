"""Derive the search space from the methods' declarations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from automerge.errors import ConfigError, Fault
from automerge.recipe import DEFAULT, Profile, canonical
from automerge.space import deviations
from automerge.space.checks import WEIGHT, model_faults, settings_faults, takes_noise
from automerge.space.declarations import KnobDeclaration, MethodDeclaration
from automerge.space.knobs import KnobSpace
from automerge.space.method import MethodSpace
from automerge.space.parameters import (
    UNIFORM_SCALE,
    BooleanParameter,
    CategoricalParameter,
    FloatParameter,
)
from automerge.space.settings import Depth, Groups, Knots, SpaceSettings
from automerge.space.space import Space
from automerge.space.structure import Structure

MAX_DIMENSION = 2000
"""Parameters of one method, at most."""
MAX_CHOICES = 1000
"""Sets of models of one method, at most."""


def build_space(
    settings: SpaceSettings,
    base: str,
    sources: Sequence[str],
    n_layers: int,
    methods: Mapping[str, MethodDeclaration],
) -> Space:
    """Build the space of recipes over a base and its fine-tunes.

    Methods that are not anchored and take a limited number of models choose among base and
    sources, in that order, each set once: the order of two models is left to their knobs.

    Args:
        settings: what is searched, as the configuration says it.
        base: the base model's name.
        sources: the names of the models that are merged.
        n_layers: how many layers each of them has.
        methods: every method there is, by name.

    Raises:
        ConfigError: with all faults found.
    """
    sources = tuple(sources)
    faults = [*model_faults(base, sources), *settings_faults(settings, n_layers, methods)]
    chosen = [methods[name] for name in dict.fromkeys(settings.methods) if name in methods]
    if not faults:
        faults += [
            fault
            for method in chosen
            for fault in _size_faults(
                method, settings, _candidates(method, settings, base, sources), n_layers
            )
        ]
    if faults:
        raise ConfigError([Fault(f"search space: {message}") for message in faults])
    return Space(
        base,
        sources,
        n_layers,
        {
            method.name: _method_space(method, settings, base, sources, n_layers)
            for method in chosen
        },
        settings.dtype,
        Structure(n_layers, settings.drop, settings.repeat)
        if settings.drop or settings.repeat
        else None,
        settings.noise,
    )


def _candidates(
    method: MethodDeclaration, settings: SpaceSettings, base: str, sources: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the models a method may merge, apart from its anchor."""
    if not takes_noise(method):
        sources = tuple(source for source in sources if source not in settings.noise)
    joins = not method.anchored and method.max_sources is not None
    return (base, *sources) if joins else sources


def _searched(method: MethodDeclaration, settings: SpaceSettings) -> list[KnobDeclaration]:
    """Return the number knobs of a method that are searched."""
    return [
        knob
        for knob in method.knobs
        if knob.kind == "float"
        and knob.name not in settings.fixed
        and (knob.search is not None or knob.name in settings.bounds)
    ]


def _width(knob: KnobDeclaration, settings: SpaceSettings, n_layers: int) -> tuple[int, int]:
    """Return the component groups of a knob, and its entries per group."""
    if knob.name not in settings.varying:
        return 1, 1
    return len(settings.components), _entries(settings.depth, n_layers)


def _entries(depth: Depth, n_layers: int) -> int:
    """Return the number of values over depth, at most one per layer."""
    count = depth.count if isinstance(depth, Knots | Groups) else n_layers
    return min(count, n_layers)


def _size_faults(
    method: MethodDeclaration, settings: SpaceSettings, models: tuple[str, ...], n_layers: int
) -> Iterator[str]:
    """Yield faults of methods with too few models, and of spaces too large to search."""
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
    for knob in _searched(method, settings):
        rows, columns = _width(knob, settings, n_layers)
        each = knob.scope == "source" and knob.name not in settings.shared
        noise = sum(model in settings.noise for model in models) if knob.name == WEIGHT else 0
        dimension += rows * columns * (len(models) if each else 1 + noise)
    if dimension > MAX_DIMENSION:
        yield (
            f"{method.name} has {dimension} dimensions, more than {MAX_DIMENSION}; use fewer "
            f"depth values ({_entries(settings.depth, n_layers)}), component groups "
            f"({len(settings.components)}) or sources ({len(models)})"
        )


def _method_space(
    method: MethodDeclaration,
    settings: SpaceSettings,
    base: str,
    sources: tuple[str, ...],
    n_layers: int,
) -> MethodSpace:
    """Build the space of one method; the settings have no faults."""
    models = _candidates(method, settings, base, sources)
    size = len(models) if method.max_sources is None else min(method.max_sources, len(models))
    selections = {" + ".join(names): names for names in combinations(models, size)}
    single = len(selections) == 1
    knobs = _searched(method, settings)
    per_source = [knob for knob in knobs if knob.scope == "source"]
    droppable = models if settings.leave_out and method.min_sources < size else ()
    droppable = tuple(model for model in droppable if model not in settings.noise)
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
        used={model: _switch(method.name, f"use[{model}]") for model in droppable},
        knobs={
            model: tuple(
                _knob_space(method.name, knob, settings, n_layers, model) for knob in per_source
            )
            for model in models
        },
        recipe_knobs=tuple(
            _knob_space(method.name, knob, settings, n_layers, None)
            for knob in knobs
            if knob.scope == "recipe"
        ),
        switches={
            knob.name: _switch(method.name, knob.name)
            for knob in method.knobs
            if knob.kind == "bool" and knob.name in settings.switches
        },
        fixed={k: v for k, v in fixed["source"].items() if isinstance(v, Profile)},
        recipe_fixed=fixed["recipe"],
        defaults={k.name: float(k.default) for k in method.knobs if k.scope == "source"},
        recipe_defaults={k.name: k.default for k in method.knobs if k.scope == "recipe"},
        evidence={kind: settings.evidence[kind] for kind in method.needs},
    )


def _switch(method: str, role: str) -> BooleanParameter:
    """Return a boolean parameter."""
    return BooleanParameter(f"{method}.{role}", role)


def _knob_space(
    method: str, knob: KnobDeclaration, settings: SpaceSettings, n_layers: int, model: str | None
) -> KnobSpace:
    """Lay one knob, of a model or of the recipe, out over component groups and depth."""
    low, high = settings.bounds.get(knob.name, knob.search or knob.domain)
    small = model in settings.noise and knob.name == WEIGHT
    if small:
        low, high = -max(abs(low), abs(high)), max(abs(low), abs(high))
    own = model is not None and (small or knob.name not in settings.shared)
    n_groups, columns = _width(knob, settings, n_layers)
    groups = settings.components if n_groups > 1 else ((DEFAULT,),)
    if isinstance(settings.depth, Groups) and columns > 1:
        knot_entries = tuple(layer * columns // n_layers for layer in range(n_layers))
        middles = [
            [i for i, entry in enumerate(knot_entries) if entry == j] for j in range(columns)
        ]
        depths = tuple(run[len(run) // 2] / (n_layers - 1) for run in middles)
    else:
        knot_entries = tuple(range(columns))
        depths = tuple(j / max(columns - 1, 1) for j in range(columns))
    common = f"{knob.name}[{model}]" if own else knob.name
    scales = deviations.scales(n_groups, columns, settings.deviation).tolist()
    reach = canonical((high - low) / 2)
    rows = []
    for i, group in enumerate(groups):
        row = []
        for j in range(columns):
            role = common + (f".{'+'.join(group)}" if i else "") + (f".depth{j}" if j else "")
            name = f"{method}.{role}"
            if i or j:
                row.append(FloatParameter(name, role, -reach, reach, scales[i][j]))
            else:
                prior = settings.deviation if small else UNIFORM_SCALE
                row.append(FloatParameter(name, role, canonical(low), canonical(high), prior))
        rows.append(tuple(row))
    return KnobSpace(knob.name, groups, tuple(rows), knot_entries, depths)
