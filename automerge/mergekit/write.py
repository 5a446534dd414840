"""Write recipes as mergekit YAML that gives every tensor the same values."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from automerge.errors import ConfigError, Fault
from automerge.mergekit.tables import COUNTERPARTS, INTEGERS, NOTES, PARAMETERS, REQUIRED, Part
from automerge.methods import METHODS, Knob, Method
from automerge.methods.base import number
from automerge.recipe import DEFAULT, Place, Profile, Recipe, RecipeSource, interpolate
from automerge.yaml_file import Plain, dump_yaml

TOLERANCE = 1e-9
MARGIN = 1e-5
"""By how much of itself an epsilon stays below the largest possible."""

ROUNDING_NOTE = (
    "mergekit computes in the dtype the tensors are stored in, automerge in float32 with one "
    "rounding at the end"
)


@dataclass(frozen=True)
class MergekitExport:
    """mergekit YAML, and where its result differs from ours; the YAML says so in comments."""

    text: str
    differences: tuple[str, ...]


def to_mergekit(
    recipe: Recipe,
    models: Mapping[str, str],
    places: Sequence[Place],
    adapters: Collection[str] = (),
) -> MergekitExport:
    """Express a recipe in mergekit's YAML, for a model with these tensors.

    `models` maps names to folders or hub ids; `adapters` names those that are LoRA adapters of the
    base. Raises ConfigError for what mergekit has no equal of.
    """
    counterpart = COUNTERPARTS.get(recipe.method)
    if counterpart is None:
        raise ConfigError(Fault(f"mergekit has no equal of {recipe.method!r}"))
    method = METHODS[recipe.method]
    own, whole = PARAMETERS[counterpart.method]
    problems = list(_beyond(recipe, method, (*own, *whole), places))
    if problems:
        raise ConfigError(Fault(problem) for problem in problems)
    base = recipe.base
    if recipe.method == "slerp":
        base = recipe.sources[0].name

    def reference(name: str) -> str:
        owner = models[recipe.base or "base"] if name in adapters else ""
        return f"{owner}+{models[name]}" if owner else models[name]

    def settings(knobs: Iterable[Knob], given: Mapping[str, object]) -> dict[str, Plain]:
        expressed = [k for k in knobs if k.kind == "float" and k.name in (*own, *whole)]
        written = {k.name: _setting(given.get(k.name), k, places) for k in expressed}
        defaults = {k.name: k.default for k in expressed if k.name not in REQUIRED}
        return {k: v for k, v in written.items() if k not in defaults or v != defaults[k]}

    sources = [_narrowed(source, method, places) for source in recipe.sources]
    plain: dict[str, Plain] = {"merge_method": counterpart.method}
    if base is not None:
        plain["base_model"] = reference(base)
    plain["models"] = [
        {"model": reference(source.name), "parameters": parameters}
        if (parameters := settings(method.source_knobs, source.knobs))
        else {"model": reference(source.name)}
        for source in sources
    ]
    parameters = settings(method.recipe_knobs, recipe.knobs)
    for knob in method.recipe_knobs:
        if knob.kind == "bool":
            parameters[knob.name] = recipe.knobs.get(knob.name, knob.default)
    parameters |= counterpart.switches
    if parameters:
        plain["parameters"] = parameters
    if recipe.dtype is not None:
        plain |= {"dtype": "float32", "out_dtype": recipe.dtype}
    differences = tuple(_differences(recipe))
    return MergekitExport(_comments(recipe, differences) + dump_yaml(plain), differences)


def mergekit_text(
    recipe: Recipe,
    models: Mapping[str, str],
    places: Sequence[Place],
    adapters: Collection[str] = (),
) -> str:
    """The text of `to_mergekit`; where mergekit has no equal, a comment that says why."""
    try:
        return to_mergekit(recipe, models, places, adapters).text
    except ConfigError as error:
        reasons = [f"{fault.message}." for fault in error.faults]
        return _wrapped([f"automerge recipe {recipe.id}.", *reasons])


def _differences(recipe: Recipe) -> Iterable[str]:
    yield from NOTES.get(recipe.method, ())
    if recipe.dtype is None:
        yield ROUNDING_NOTE


def _beyond(
    recipe: Recipe, method: Method, parameters: Collection[str], places: Sequence[Place]
) -> Iterable[str]:
    """List what a recipe says that mergekit's method cannot do."""
    theirs = COUNTERPARTS[method.name].method
    resolved = [method.values(recipe, place) for place in places]
    for knob in method.recipe_knobs:
        values = {v.number[knob.name] for v in resolved if knob.kind == "float"}
        if knob.name not in parameters and values - {knob.default}:
            yield f"mergekit's {theirs} has no {knob.name}; it is {knob.default:g} there"
        if knob.name in INTEGERS and any(value != int(value) for value in values):
            yield f"mergekit's {theirs} takes a whole number for {knob.name}"
    for knob in method.source_knobs:
        each = [v.each[knob.name] for v in resolved]
        if knob.name not in parameters and any(len({*e}) > 1 or 0 in e for e in each):
            yield f"mergekit's {theirs} has no {knob.name}; all models count alike there"


def _narrowed(source: RecipeSource, method: Method, places: Sequence[Place]) -> RecipeSource:
    """A source with an epsilon mergekit takes: density ± epsilon must lie within 0 and 1.

    Where it does not, ours narrows to the same probabilities, but for the margin.
    """
    knobs = {knob.name: knob for knob in method.source_knobs}
    if not {"density", "epsilon"} <= set(knobs):
        return source
    values: dict[str, float] = {}
    for place in sorted(places, key=lambda place: -len(place.tensor)):
        density, epsilon = (
            number(source.knobs.get(n), knobs[n], place) for n in ("density", "epsilon")
        )
        room = min(density, 1 - density)
        values[f"*{place.tensor}"] = room * (1 - MARGIN) if 0 < room <= epsilon else epsilon
    given = [number(source.knobs.get("epsilon"), knobs["epsilon"], place) for place in places]
    if sorted(values.values()) == sorted(given):
        return source
    same = len({*values.values()}) == 1
    profile = Profile.of(next(iter(values.values())) if same else values)
    return replace(source, knobs={**source.knobs, "epsilon": profile})


def _comments(recipe: Recipe, differences: Sequence[str]) -> str:
    lines = [f"automerge recipe {recipe.id}, for mergekit 0.1.5."]
    lines += [f"Not the same: {difference}." for difference in differences]
    return _wrapped(lines)


def _wrapped(lines: Iterable[str]) -> str:
    """Lines as YAML comments."""
    parts = (part for line in lines for part in textwrap.wrap(line, 97))
    return "".join(f"# {part}\n" for part in parts)


def _setting(value: object, knob: Knob, places: Sequence[Place]) -> Plain:
    """One parameter in mergekit's syntax; it has the knob's value at every place."""
    profile = value if isinstance(value, Profile) else Profile.of(float(knob.default))
    if DEFAULT not in dict(profile.parts):
        profile = Profile((*profile.parts, (DEFAULT, (float(knob.default),))))
    for parts in (_by_substring(profile, places), _by_name(profile, places)):
        if parts is not None and _same(parts, profile, places):
            return _plain(parts)
    raise ConfigError(Fault(f"mergekit cannot express {knob.name}: {profile.plain()!r}"))


def _plain(parts: Sequence[Part]) -> Plain:
    values = [(s, knots[0] if len({*knots}) == 1 else list(knots)) for s, knots in parts]
    if values[0][0] is None:
        return values[0][1]
    return [{"value": v} if s is None else {"filter": s, "value": v} for s, v in values]


def _by_substring(profile: Profile, places: Sequence[Place]) -> list[Part] | None:
    """Filters that name modules, as a person would write; None where names do not suffice."""
    parts: list[Part] = []
    open_places = list(places)
    for selector, knots in profile.parts:
        chosen = [p for p in open_places if Profile(((selector, (0.0,)),)).at(p) is not None]
        others = [p for p in open_places if p not in chosen]
        if not others:
            parts.append((None, knots))
            open_places = []
            break
        substrings = _cover([p.tensor for p in chosen], [p.tensor for p in others])
        if substrings is None:
            return None
        parts += ((substring, knots) for substring in substrings)
        open_places = others
    return [*_exceptions(parts, profile, places), *parts]


def _exceptions(parts: Sequence[Part], profile: Profile, places: Sequence[Place]) -> list[Part]:
    """Values for tensors outside the layers, to which mergekit gives a gradient's first value."""
    resolve = resolver(parts, places)
    outer = (p for p in places if p.layer is None)
    wrong = [p for p in outer if not _equal(resolve(p), profile.at(p))]
    wrong.sort(key=lambda place: -len(place.tensor))
    return [(p.tensor, (_at(profile, p),)) for p in wrong]


def _by_name(profile: Profile, places: Sequence[Place]) -> list[Part]:
    """One filter a tensor. A name may be part of a longer one, which then comes first."""
    ordered = sorted(places, key=lambda place: -len(place.tensor))
    return [(place.tensor, (_at(profile, place),)) for place in ordered]


def _cover(wanted: Sequence[str], unwanted: Sequence[str]) -> list[str] | None:
    """Few substrings that together match all wanted names and no unwanted one."""
    candidates = dict.fromkeys(run for name in wanted for run in _runs(name))
    valid = {c: [n for n in wanted if c in n] for c in candidates if not _any_has(unwanted, c)}
    left, chosen = list(wanted), []
    while left:
        gains = {c: sum(name in left for name in names) for c, names in valid.items()}
        best = max(gains, key=lambda c: (gains[c], -len(c)), default=None)
        if best is None or gains[best] == 0:
            return None
        chosen.append(best)
        left = [name for name in left if name not in valid[best]]
    return chosen


def _any_has(names: Iterable[str], substring: str) -> bool:
    return any(substring in name for name in names)


def _runs(name: str) -> list[str]:
    """The runs of words of a dotted name that hold no layer number, and the whole name."""
    runs: list[list[str]] = [[]]
    for word in name.split("."):
        if word.isdigit():
            runs.append([])
        else:
            runs[-1].append(word)
    found = [
        ".".join(run[i:j])
        for run in runs
        for i in range(len(run))
        for j in range(i + 1, len(run) + 1)
    ]
    return [*found, name]


def resolver(parts: Sequence[Part], places: Sequence[Place]) -> Callable[[Place], float | None]:
    """What mergekit 0.1.5 makes of a parameter at each tensor of a model."""
    last = max((p.layer for p in places if p.layer is not None), default=0)

    def resolve(place: Place) -> float | None:
        depth = 0.0
        if place.layer is not None:
            depth = place.layer / last if last else 1.0
        for substring, knots in parts:
            if substring is None or substring in place.tensor:
                return interpolate(knots, depth)
        return None

    return resolve


def _same(parts: Sequence[Part], profile: Profile, places: Sequence[Place]) -> bool:
    resolve = resolver(parts, places)
    return all(_equal(resolve(place), profile.at(place)) for place in places)


def _equal(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and abs(one - other) <= TOLERANCE


def _at(profile: Profile, place: Place) -> float:
    value = profile.at(place)
    assert value is not None  # the profile ends with `default`
    return value
