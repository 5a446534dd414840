"""Derive the search space from the methods' declarations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import TypeAlias

from automerge import expert_groups, mixture
from automerge.errors import ConfigError, Fault
from automerge.recipe import CALIBRATED_BY, DEFAULT, Profile, canonical, is_zone
from automerge.space import deviations
from automerge.space.calibration import Calibration
from automerge.space.checks import WEIGHT, model_faults, pair_faults, settings_faults, takes_noise
from automerge.space.crossing import Crossing
from automerge.space.declarations import KnobDeclaration, MethodDeclaration
from automerge.space.experts import Experts, expert_faults
from automerge.space.flow import MANY, Flow, usual_longest
from automerge.space.knobs import KnobSpace
from automerge.space.method import MethodSpace, Switch
from automerge.space.mixtures import Mixtures, mixture_faults
from automerge.space.parameters import (
    UNIFORM_SCALE,
    BooleanParameter,
    CategoricalParameter,
    FloatParameter,
)
from automerge.space.settings import Depth, Groups, Knots, SpaceSettings
from automerge.space.space import Space
from automerge.space.structure import Structure
from automerge.space.swap import Swap

Parts: TypeAlias = tuple[tuple[str, MethodDeclaration], ...]
"""The method of each group of tensors, after its selector; a single one for the whole model."""

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
    if not faults:
        faults += pair_faults(settings, sources)
        trained = [source for source in sources if source not in settings.noise]
        states = settings.evidence.get(mixture.EVIDENCE, {})
        routing = settings.evidence.get(expert_groups.EVIDENCE, {})
        faults += expert_faults(settings.experts, trained, routing)
        faults += mixture_faults(settings.mixture, trained, states)
        faults += _flow_faults(settings, sources, n_layers)
        faults += [
            fault
            for parts in _combinations(settings, methods)
            for fault in _size_faults(
                parts, settings, _candidates(parts, settings, base, sources), n_layers
            )
        ]
        faults = list(dict.fromkeys(faults))
    if faults:
        raise ConfigError([Fault(f"search space: {message}") for message in faults])
    return Space(
        base,
        sources,
        n_layers,
        {
            _label(parts): _method_space(parts, settings, base, sources, n_layers)
            for parts in _combinations(settings, methods)
        },
        settings.dtype,
        _structure(settings, sources, n_layers),
        settings.noise,
        Calibration(settings.evidence.get(CALIBRATED_BY, {})) if settings.calibrate else None,
    )


def _structure(
    settings: SpaceSettings, sources: tuple[str, ...], n_layers: int
) -> Structure | Swap | Crossing | Flow | Mixtures | Experts | None:
    """Return how layers are searched; None where they are not."""
    trained = tuple(source for source in sources if source not in settings.noise)
    if settings.mixture is not None:
        return Mixtures(
            n_layers,
            trained,
            settings.mixture.gates,
            settings.mixture.per_token or len(trained),
            settings.mixture.dense,
            settings.evidence.get(mixture.EVIDENCE, {}),
        )
    if settings.experts is not None:
        routing = settings.evidence.get(expert_groups.EVIDENCE, {})
        return Experts(settings.experts.counts, settings.experts.by, trained, routing)
    if settings.rounds:
        longest = settings.longest or usual_longest(n_layers)
        many = settings.rounds * len(sources) * n_layers > MANY
        network = many if settings.network is None else settings.network
        return Flow(n_layers, sources, settings.rounds, settings.scale, longest, network)
    if settings.swap or settings.crossing:
        first, second = sources
        return (Swap if settings.swap else Crossing)(n_layers, (first, second))
    if settings.drop or settings.repeat:
        return Structure(n_layers, settings.drop, settings.repeat, trained)
    return None


def _combinations(settings: SpaceSettings, methods: Mapping[str, MethodDeclaration]) -> list[Parts]:
    """List the methods of each group together; without groups, each method alone."""
    if not settings.by_group:
        return [((DEFAULT, methods[name]),) for name in dict.fromkeys(settings.methods)]
    groups = settings.by_group.items()
    named = [[(selector, methods[name]) for name in names] for selector, names in groups]
    return list(product(*named))


def _label(parts: Parts) -> str:
    """Name the methods of all groups."""
    if len(parts) == 1:
        return parts[0][1].name
    return ", ".join(f"{selector}: {method.name}" for selector, method in parts)


def _candidates(
    parts: Parts, settings: SpaceSettings, base: str, sources: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the models that methods may merge, apart from their anchor."""
    if not all(takes_noise(method) for _, method in parts):
        sources = tuple(source for source in sources if source not in settings.noise)
    joins = any(not m.anchored and m.max_sources is not None for _, m in parts)
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


def _width(
    knob: KnobDeclaration, settings: SpaceSettings, n_layers: int, selector: str
) -> tuple[int, int]:
    """Return the component groups of a knob, and its entries per group.

    In a zone of depth there is one value.
    """
    if knob.name not in settings.varying or is_zone(selector):
        return 1, 1
    groups = 1 if settings.by_group else len(settings.components)
    return groups, _entries(settings.depth, n_layers)


def _entries(depth: Depth, n_layers: int) -> int:
    """Return the number of values over depth, at most one per layer."""
    count = depth.count if isinstance(depth, Knots | Groups) else n_layers
    return min(count, n_layers)


def _size_faults(
    parts: Parts, settings: SpaceSettings, models: tuple[str, ...], n_layers: int
) -> Iterator[str]:
    """Yield faults of methods with too few models, and of spaces too large to search."""
    for _, method in parts:
        if len(models) < method.min_sources:
            yield f"{method.name} merges at least {method.min_sources} models; got {len(models)}"
            return
    dimension = 0
    for selector, method in parts:
        yield from _sets_faults(method, models)
        for knob in _searched(method, settings):
            rows, columns = _width(knob, settings, n_layers, selector)
            each = knob.scope == "source" and knob.name not in settings.shared
            noise = sum(model in settings.noise for model in models) if knob.name == WEIGHT else 0
            dimension += rows * columns * (len(models) if each else 1 + noise)
    if dimension > MAX_DIMENSION:
        yield (
            f"{_label(parts)} has {dimension} dimensions, more than {MAX_DIMENSION}; use fewer "
            f"depth values ({_entries(settings.depth, n_layers)}), component groups "
            f"({len(settings.by_group or settings.components)}) or sources ({len(models)})"
        )


def _flow_faults(settings: SpaceSettings, sources: tuple[str, ...], n_layers: int) -> Iterator[str]:
    places = settings.rounds * len(sources) * n_layers
    if settings.network is False and places > MAX_DIMENSION:
        yield (
            f"a path has {places} places, each a dimension, more than {MAX_DIMENSION}; use "
            "network: true"
        )


def _sets_faults(method: MethodDeclaration, models: tuple[str, ...]) -> Iterator[str]:
    size = len(models) if method.max_sources is None else min(method.max_sources, len(models))
    sets = math.comb(len(models), size)
    if sets > MAX_CHOICES:
        yield (
            f"{method.name} has {sets} sets of {size} models out of {len(models)}, more than "
            f"{MAX_CHOICES}; name fewer sources"
        )


def _method_space(
    parts: Parts,
    settings: SpaceSettings,
    base: str,
    sources: tuple[str, ...],
    n_layers: int,
) -> MethodSpace:
    """Build the space of one method, or of one for each group; the settings have no faults."""
    models = _candidates(parts, settings, base, sources)
    declared = [method for _, method in parts]
    limits = [method.max_sources for method in declared if method.max_sources is not None]
    size = min([len(models), *limits])
    selections = {" + ".join(names): names for names in combinations(models, size)}
    single = len(selections) == 1
    label = _label(parts)
    shared = label if len(parts) == 1 else "groups"
    min_sources = max(method.min_sources for method in declared)
    droppable = models if settings.leave_out and min_sources < size else ()
    droppable = tuple(model for model in droppable if model not in settings.noise)
    fixed = {
        scope: {
            knob.name: value if isinstance(value, bool) else Profile.of(value)
            for method in declared
            for knob in method.knobs
            if knob.scope == scope and knob.name in settings.fixed
            for value in (settings.fixed[knob.name],)
        }
        for scope in ("source", "recipe")
    }
    readers = {
        knob.name: tuple(s for s, m in parts if any(k.name == knob.name for k in m.knobs))
        for method in declared
        for knob in method.knobs
    }
    return MethodSpace(
        name=label,
        parts=tuple((selector, method.name) for selector, method in parts),
        base=base if any(method.anchored for method in declared) else None,
        seed=settings.seed if any(method.seeded for method in declared) else 0,
        ordered=any(method.ordered for method in declared),
        min_sources=min_sources,
        selection=None if single else CategoricalParameter(f"{label}.models", tuple(selections)),
        selections=selections,
        used={model: _switch(shared, f"use[{model}]") for model in droppable},
        knobs={
            model: tuple(
                _knob_space(part, knob, settings, n_layers, model)
                for part in parts
                for knob in _searched(part[1], settings)
                if knob.scope == "source"
            )
            for model in models
        },
        recipe_knobs=tuple(
            _knob_space(part, knob, settings, n_layers, None)
            for part in parts
            for knob in _searched(part[1], settings)
            if knob.scope == "recipe"
        ),
        switches=tuple(
            Switch(
                knob.name,
                selector if settings.by_group else None,
                BooleanParameter(
                    f"{_of_group(selector, method.name, settings)}.{knob.name}",
                    _of_group(selector, knob.name, settings),
                ),
            )
            for selector, method in parts
            for knob in method.knobs
            if knob.kind == "bool" and knob.name in settings.switches
        ),
        fixed={k: v for k, v in fixed["source"].items() if isinstance(v, Profile)},
        recipe_fixed=fixed["recipe"],
        held=_held(parts, settings),
        readers=readers,
        defaults={
            name: found
            for name, found in _defaults(parts, "source").items()
            if isinstance(found, Profile)
        },
        recipe_defaults=_defaults(parts, "recipe"),
        evidence={kind: settings.evidence[kind] for m in declared for kind in m.needs},
    )


def _held(parts: Parts, settings: SpaceSettings) -> dict[str, dict[str, float]]:
    """Return values of knobs in groups that do not search them, where another group does."""
    names = {knob.name for _, method in parts for knob in _searched(method, settings)}
    return {
        name: held
        for name in names
        if (
            held := {
                selector: float(knob.default)
                for selector, method in parts
                for knob in method.knobs
                if knob.name == name and knob not in _searched(method, settings)
            }
        )
    }


def _defaults(parts: Parts, scope: str) -> dict[str, Profile | bool]:
    """Return the defaults of knobs, by group where groups have different ones."""
    found: dict[str, dict[str, float | bool]] = {}
    for selector, method in parts:
        for knob in method.knobs:
            if knob.scope == scope:
                found.setdefault(knob.name, {})[selector] = knob.default
    return {name: _default(list(own.values()), own) for name, own in found.items()}


def _default(
    values: Sequence[float | bool], by_group: Mapping[str, float | bool]
) -> Profile | bool:
    first = values[0]
    if any(value != first for value in values):
        return Profile.of({selector: float(value) for selector, value in by_group.items()})
    return first if isinstance(first, bool) else Profile.of(float(first))


def _of_group(selector: str, name: str, settings: SpaceSettings) -> str:
    """Return a name that says which group it is of, where there are groups."""
    return f"{selector}/{name}" if settings.by_group else name


def _switch(method: str, role: str) -> BooleanParameter:
    """Return a boolean parameter."""
    return BooleanParameter(f"{method}.{role}", role)


def _knob_space(
    part: tuple[str, MethodDeclaration],
    knob: KnobDeclaration,
    settings: SpaceSettings,
    n_layers: int,
    model: str | None,
) -> KnobSpace:
    """Lay one knob, of a model or of the recipe, out over component groups and depth."""
    selector, method = part
    low, high = settings.bounds.get(knob.name, knob.search or knob.domain)
    small = model in settings.noise and knob.name == WEIGHT
    if small:
        low, high = -max(abs(low), abs(high)), max(abs(low), abs(high))
    own = model is not None and (small or knob.name not in settings.shared)
    n_groups, columns = _width(knob, settings, n_layers, selector)
    groups = settings.components if n_groups > 1 else ((selector,),)
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
            mode = common + (f".{'+'.join(group)}" if i else "") + (f".depth{j}" if j else "")
            role = _of_group(selector, mode, settings)
            name = f"{_of_group(selector, method.name, settings)}.{mode}"
            if i or j:
                row.append(FloatParameter(name, role, -reach, reach, scales[i][j]))
            else:
                prior = settings.deviation if small else UNIFORM_SCALE
                row.append(FloatParameter(name, role, canonical(low), canonical(high), prior))
        rows.append(tuple(row))
    return KnobSpace(knob.name, groups, tuple(rows), knot_entries, depths)
