"""What can be wrong with the settings of a search space, one sentence each."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from automerge.errors import nearest
from automerge.recipe import COMPONENTS, DEFAULT, ROUTED, canonical, is_selector, is_zone
from automerge.space.crossing import can_cross
from automerge.space.declarations import KnobDeclaration, MethodDeclaration
from automerge.space.settings import Groups, Knots, SpaceSettings

Located: TypeAlias = tuple[tuple[int, ...], str]
"""Where in a list of lists something is, and what is wrong with it."""


MAX_COMBINATIONS = 64
"""Of the methods of all groups."""
SWAPPED = 3
"""Layers, at least, of models that swap some: one is left between bottom and top."""
WEIGHT = "weight"
"""The knob that scales a source's task vector."""


def takes_noise(method: MethodDeclaration) -> bool:
    """Return whether a method adds task vectors with weights, of which noise's may be negative."""
    return method.anchored and any(
        knob.name == WEIGHT and knob.scope == "source" and knob.domain[0] < 0
        for knob in method.knobs
    )


def model_faults(base: str, sources: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with the models."""
    if not sources:
        yield "there is no source model; name at least one fine-tune of the base"
    for name, times in Counter(sources).items():
        if times > 1:
            yield f"source {name!r} is listed {times} times; list it once"
    if base in sources:
        yield f"{base!r} is the base and a source: its task vector is zero; remove the source"


def pair_faults(settings: SpaceSettings, sources: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with the sources of a search that takes two of them."""
    if settings.swap and (len(sources) != 2 or settings.noise):
        yield f"layers are swapped between two fine-tunes; got {', '.join(sources)}"
    if settings.crossing and (len(sources) != 2 or settings.noise):
        yield f"two fine-tunes cross over at a layer; got {', '.join(sources)}"


def settings_faults(
    settings: SpaceSettings, n_layers: int, methods: Mapping[str, MethodDeclaration]
) -> Iterator[str]:
    """Yield what is wrong with the settings, whatever the models."""
    if n_layers < 1:
        yield f"the models need at least 1 layer; got {n_layers}"
    if settings.drop >= n_layers > 0:
        yield f"at least 1 of {n_layers} layers is left; got drop: {settings.drop}"
    if settings.repeat > n_layers > 0:
        yield f"at most all {n_layers} layers are run twice; got repeat: {settings.repeat}"
    if settings.swap and n_layers < SWAPPED:
        yield f"layers are swapped in models of at least {SWAPPED} of them; got {n_layers}"
    if settings.swap and (settings.drop or settings.repeat):
        yield "layers are swapped in models of the base's depth; remove drop and repeat, or swap"
    if settings.swap:
        for name in settings.methods:
            if name in methods and all(knob.name != WEIGHT for knob in methods[name].knobs):
                yield f"layers are swapped by weights, which {name} lacks; remove it, or swap"
    if settings.crossing:
        if settings.drop or settings.repeat or settings.swap:
            yield "sources cross over in the base's layers; remove drop, repeat and swap, or it"
        for name in settings.methods:
            if name in methods and not can_cross(methods[name]):
                yield f"{name} has no weights that two sources exchange; remove it, or crossing"
    changed = settings.drop or settings.repeat or settings.rounds
    others = changed or settings.swap or settings.crossing
    if settings.mixture is not None and others:
        yield "a mixture of experts has the base's layers; remove all else of layers, or mixture"
    if settings.experts is not None and (others or settings.mixture is not None):
        yield "experts are merged in the base's layers; remove experts, or all else of layers"
    yield from _flow_faults(settings, n_layers, methods)
    if not settings.methods:
        yield f"no method is named; choose from {', '.join(methods)}"
    for name in settings.methods:
        if name not in methods:
            yield f"unknown method {name!r}{nearest(name, tuple(methods))}"
        for kind in methods[name].needs if name in methods else ():
            if kind not in settings.evidence:
                yield f"{name} needs evidence of the kind {kind}; set `evidence: {{text: FILE}}`"
    yield from _group_faults(settings, methods)
    if isinstance(settings.depth, Knots | Groups) and settings.depth.count < 1:
        yield f"depth needs at least 1 value; got {settings.depth.count}"
    if settings.noise:
        chosen = [methods[name] for name in settings.methods if name in methods]
        if chosen and not any(map(takes_noise, chosen)):
            yield (
                f"no chosen method merges noise ({', '.join(settings.noise)}), which takes one "
                "that adds weighted task vectors; add task_arithmetic"
            )
        if WEIGHT in settings.fixed:
            yield "noise needs weights that are searched: remove `weight`, or the noise"
    yield from (message for _, message in component_faults(settings.components))
    yield from _coverage_faults(settings.components)
    yield from _knob_faults(settings, [methods[n] for n in settings.methods if n in methods])


def _flow_faults(
    settings: SpaceSettings, n_layers: int, methods: Mapping[str, MethodDeclaration]
) -> Iterator[str]:
    """Yield what is wrong with paths through the layers of sources."""
    if not settings.rounds:
        if settings.scale != 1 or settings.longest is not None or settings.network is not None:
            yield "scale, longest and network are those of a path; add rounds, or remove them"
        return
    if settings.drop or settings.repeat or settings.swap or settings.crossing:
        yield "a path leaves out, repeats and swaps layers itself; remove rounds, or the others"
    if settings.longest is not None and settings.longest < n_layers:
        yield f"a path may be the whole of a model, {n_layers} layers; got {settings.longest}"
    if settings.noise:
        yield f"no path leads through noise ({', '.join(settings.noise)}); remove it"
    for name in settings.methods:
        if name not in methods:
            continue
        if methods[name].min_sources > 1 or methods[name].max_sources is not None:
            yield f"a layer of a path has one source of several, which {name} does not take"


def _group_faults(
    settings: SpaceSettings, methods: Mapping[str, MethodDeclaration]
) -> Iterator[str]:
    """Yield what is wrong with methods by group."""
    if not settings.by_group:
        return
    for name in settings.methods:
        most = methods[name].max_sources if name in methods else None
        if most is not None:
            yield f"{name} merges at most {most} models, and groups merge the same ones; remove it"
    combined = math.prod(map(len, settings.by_group.values()))
    if combined > MAX_COMBINATIONS:
        yield (
            f"the groups' methods have {combined} combinations, more than {MAX_COMBINATIONS}; "
            "name fewer"
        )
    if list(settings.by_group)[-1] != DEFAULT:
        yield f"no method is named for the rest; add a last group {DEFAULT!r}"
    deeper = settings.drop or settings.repeat or settings.rounds
    if deeper and any(map(is_zone, settings.by_group)):
        yield "zones of depth mean nothing where layers are searched; remove one of the two"


def component_faults(groups: Sequence[Sequence[str]]) -> Iterator[Located]:
    """Yield what is wrong with single component groups and selectors, with their positions."""
    seen: set[str] = set()
    for i, group in enumerate(groups):
        if not group:
            yield (i,), "an empty group; name at least one component in it"
        for j, selector in enumerate(group):
            if not is_selector(selector):
                advice = "(a pattern of tensor names holds a '*', a zone is written depth<0.5)"
                message = f"unknown component {selector!r} {advice}"
                yield (i, j), message + nearest(selector, (*COMPONENTS, *ROUTED, DEFAULT))
            elif selector in seen:
                yield (i, j), f"component {selector!r} is listed twice"
            seen.add(selector)


def _coverage_faults(groups: Sequence[Sequence[str]]) -> Iterator[str]:
    selectors = {selector for group in groups for selector in group}
    missing = [component for component in COMPONENTS if component not in selectors]
    if DEFAULT not in selectors and missing:
        listed = ", ".join(missing)
        yield f"no component group covers {listed}; add a group {DEFAULT!r} for the rest"


def _knob_faults(settings: SpaceSettings, methods: Sequence[MethodDeclaration]) -> Iterator[str]:
    """Yield what is wrong with bounds, fixed values and switches."""
    names = tuple({knob.name: None for method in methods for knob in method.knobs})
    for name in (*settings.bounds, *settings.fixed, *settings.switches, *settings.shared):
        if methods and name not in names:
            yield f"no chosen method has a knob {name!r}{nearest(name, names)}"
    for name in settings.fixed:
        if name in settings.bounds or name in settings.switches:
            yield f"{name!r} is fixed and searched; keep one of the two"
    searched = {**settings.bounds, **dict.fromkeys(settings.switches, (False, True))}
    for method in methods:
        for knob in method.knobs:
            for given in (searched, settings.fixed):
                if knob.name in given:
                    for message in range_faults(knob, given[knob.name]):
                        yield f"{method.name}.{knob.name}: {message}"


def range_faults(knob: KnobDeclaration, value: object) -> Iterator[str]:
    """Yield what is wrong with the bounds, or the one value, that a search gives a knob.

    Args:
        knob: what the method declares.
        value: bounds [low, high], [false, true] of a switch, or one value.
    """
    shown = json.dumps(value)
    if knob.kind == "bool":
        switch = isinstance(value, list | tuple) and sorted(map(repr, value)) == ["False", "True"]
        if not (switch or isinstance(value, bool)):
            yield f"expected true, false or [false, true], got {shown}"
        return
    bounds = list(value) if isinstance(value, list | tuple) else [value, value]
    numbers = [v for v in bounds if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(bounds) != 2 or len(numbers) != 2:
        yield f"expected bounds [low, high] or one number, got {shown}"
        return
    low, high = knob.domain
    if not (all(map(math.isfinite, numbers)) and low <= min(numbers) <= max(numbers) <= high):
        yield f"a {knob.name} lies in [{low:g}, {high:g}], got {shown}"
    elif isinstance(value, list | tuple) and canonical(numbers[0]) >= canonical(numbers[1]):
        yield f"the lower bound must be below the upper one, got {shown}"
