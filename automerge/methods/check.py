"""Whether a recipe can be merged: every problem, with its place in the recipe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, TypeAlias

from automerge.errors import Fault, Locate, nearest
from automerge.extensions import Table
from automerge.layer_faults import PlainPath, expert_faults, mixture_faults, slice_faults
from automerge.methods.base import Knob, Method
from automerge.recipe import CALIBRATED_BY, DEFAULT, REPAIR, Profile, Recipe, Value

STORAGE_DTYPES = ("float64", "float32", "bfloat16", "float16")

Knobs: TypeAlias = Mapping[str, Profile | Value]


def check_recipe(recipe: Recipe, methods: Table[Method]) -> list[str]:
    """List everything that keeps a recipe from being merged, each with its place."""
    return [label(path) + problem for path, problem in problems(recipe, methods)]


def recipe_faults(recipe: Recipe, methods: Table[Method], locate: Locate) -> list[Fault]:
    """List the same for a recipe from a file; `locate` takes paths in `Recipe.plain`."""
    return [Fault(problem, locate(path)) for path, problem in problems(recipe, methods)]


def label(path: PlainPath) -> str:
    """Name the slice and the source that a path leads to."""
    words = []
    if path[0] in ("mixture", "experts") and len(path) > 1:
        return f"{path[0]}.{path[1]}: "
    if path[0] == "slices" and len(path) > 1:
        words, path = [f"slice {int(path[1]) + 1}: "], path[2:]
    if path and path[0] == "sources":
        words.append(f"{path[1]}: ")
    return "".join(words)


def problems(recipe: Recipe, methods: Table[Method]) -> Iterator[tuple[PlainPath, str]]:
    """Yield all that is wrong with a recipe, by paths in `Recipe.plain`."""
    sliced = slice_faults(recipe)
    yield from sliced
    yield from mixture_faults(recipe)
    yield from expert_faults(recipe)
    unknown = [
        (at, problem)
        for at, name in _named(recipe).items()
        if (problem := methods.problem(name)) is not None
    ]
    yield from unknown
    if unknown:
        return
    own = {name: methods[name] for name in recipe.all_methods}
    if not sliced:
        # What a method asks of models is said at the method, which is often what has to change.
        for i, part in enumerate(recipe.parts, start=1):
            where = f"slice {i}: " if recipe.slices else ""
            for at, name in {name: (at, name) for at, name in _named(recipe).items()}.values():
                for problem in model_problems(part, own[name]):
                    yield at, where + problem
    yield from _calibration_problems(recipe)
    if recipe.dtype is not None and recipe.dtype not in STORAGE_DTYPES:
        known = nearest(recipe.dtype, STORAGE_DTYPES)
        yield ("dtype",), f"unknown dtype {recipe.dtype!r}{known}"
    levels: list[tuple[PlainPath, Iterable[tuple[str, Knobs]], Knobs]] = [
        ((), [(source.name, source.knobs) for source in recipe.sources], recipe.knobs)
    ]
    levels += [
        (("slices", i), piece.sources.items(), piece.knobs) for i, piece in enumerate(recipe.slices)
    ]
    for here, sources, shared in levels:
        for source, knobs in sources:
            for name, problem in _all_knob_problems(recipe, own, "source", knobs):
                yield (*here, "sources", source, name), problem
        for name, problem in _all_knob_problems(recipe, own, "recipe", shared):
            yield (*here, "parameters", name), problem


def _calibration_problems(recipe: Recipe) -> Iterator[tuple[PlainPath, str]]:
    """Yield what keeps the merged model from being calibrated."""
    if not 0 <= recipe.repair <= 1:
        yield ("calibrate", REPAIR), f"{REPAIR} must lie in [0, 1]; got {recipe.repair:g}"
    known = recipe.evidence.get(CALIBRATED_BY, {})
    lacking = [source.name for source in recipe.sources if source.name not in known]
    if recipe.repair and lacking:
        yield (
            ("calibrate",),
            f"{REPAIR} needs evidence of the kind {CALIBRATED_BY} from {', '.join(lacking)}: name "
            f"its digest under `evidence` (`automerge gather --kind {CALIBRATED_BY}` makes it)",
        )


def _named(recipe: Recipe) -> dict[PlainPath, str]:
    """Return the recipe's methods by where it names them."""
    if not recipe.methods:
        return {("method",): recipe.method}
    return {("method", selector): name for selector, name in recipe.by_selector.items()}


def _all_knob_problems(
    recipe: Recipe,
    methods: Mapping[str, Method],
    scope: Literal["source", "recipe"],
    given: Knobs,
) -> Iterator[tuple[str, str]]:
    """Yield problems with knobs, each of which must belong to at least one of the methods.

    A value by selector has to suit the methods of the tensors that the selector may select.
    """
    if not recipe.methods:
        yield from knob_problems(methods[recipe.method], scope, given)
        return
    names = {knob.name for method in methods.values() for knob in method.knobs}
    known = {knob.name for m in methods.values() for knob in m.knobs if knob.scope == scope}
    for name, value in given.items():
        if name not in known:
            if name in names:
                [problem] = {
                    problem
                    for method in methods.values()
                    if any(knob.name == name for knob in method.knobs)
                    for _, problem in knob_problems(method, scope, {name: value})
                }
            else:
                listed = " or ".join(methods)
                problem = f"none of {listed} has {name!r}{nearest(name, tuple(known))}"
            yield name, problem
            continue
        found = {
            problem: None
            for key, method in methods.items()
            for knob in method.knobs
            if (knob.name, knob.scope) == (name, scope)
            for problem in value_problems(knob, _meant(value, recipe, key))
        }
        yield from ((name, problem) for problem in found)


def _meant(value: Profile | Value, recipe: Recipe, method: str) -> Profile | Value:
    """Return a knob's value without what only tensors of other methods read."""
    if not isinstance(value, Profile):
        return value
    chosen = recipe.by_selector
    own = [selector for selector, name in chosen.items() if name == method]
    given = dict(value.parts)
    covered = all(selector in given for selector in own) and DEFAULT not in own
    parts = tuple(
        (selector, knots)
        for selector, knots in value.parts
        if chosen.get(selector, method) == method or (selector == DEFAULT and not covered)
    )
    return Profile(parts)


def model_problems(recipe: Recipe, method: Method) -> list[str]:
    """List what is wrong with the models of a recipe without slices."""
    problems = []
    count, least, most = len(recipe.sources), method.min_sources, method.max_sources
    if count < least or (most is not None and count > most):
        expected = f"exactly {least}" if least == most else f"at least {least}"
        if most is not None and least != most:
            expected = f"{least} to {most}"
        problems.append(f"{method.name} takes {expected} source(s); got {count}")
    if method.anchored and recipe.base is None:
        problems.append(f"{method.name} merges task vectors and needs a base model: set `base`")
    names = [source.name for source in recipe.sources]
    problems += [
        f"source {name!r} is listed twice; give it one weight"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    for kind in method.needs:
        lacking = [name for name in names if name not in recipe.evidence.get(kind, {})]
        if lacking:
            problems.append(
                f"{method.name} needs evidence of the kind {kind} from {', '.join(lacking)}: name "
                "its digest under `evidence` (`automerge gather` makes it)"
            )
    if method.anchored and recipe.base in names:
        problems.append(f"{recipe.base!r} is the base and a source: its task vector is zero")
    return problems


def knob_problems(
    method: Method, scope: Literal["source", "recipe"], given: Mapping[str, object]
) -> Iterator[tuple[str, str]]:
    """Yield unknown knobs and values outside a knob's kind or domain, with the knob's name."""
    known = {knob.name: knob for knob in method.knobs if knob.scope == scope}
    elsewhere = {knob.name: knob.scope for knob in method.knobs if knob.name not in known}
    for name, value in given.items():
        if name in elsewhere:
            if elsewhere[name] == "source":
                yield name, f"{name!r} is a per-source knob; set it under `sources`"
            else:
                yield name, f"{name!r} is a knob of the whole recipe; set it under `parameters`"
        elif name not in known:
            yield name, f"{method.name} has no {name!r}{nearest(name, tuple(known))}"
        else:
            for problem in value_problems(known[name], value):
                yield name, problem


def value_problems(knob: Knob, value: object) -> list[str]:
    """List what is wrong with one knob's value."""
    if knob.kind == "bool":
        by_selector = isinstance(value, Profile) and all(
            knots in ((0.0,), (1.0,)) for _, knots in value.parts
        )
        if isinstance(value, bool) or by_selector:
            return []
        shown = value.plain() if isinstance(value, Profile) else value
        return [f"{knob.name} is true or false; got {shown!r}"]
    if isinstance(value, Profile):
        numbers = [v for _, knots in value.parts for v in knots]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        numbers = [float(value)]
    else:
        return [f"{knob.name} is a number; got {value!r}"]
    low, high = knob.domain
    return [
        f"{knob.name} must lie in [{low:g}, {high:g}]; got {v:g}"
        for v in numbers
        if not low <= v <= high
    ]
