"""One parameter in mergekit's syntax: numbers, gradients and filters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from automerge.errors import ConfigError, Fault
from automerge.files.yaml_file import Plain
from automerge.mergekit.tables import Part
from automerge.methods import Knob
from automerge.recipe import DEFAULT, Place, Profile, interpolate

TOLERANCE = 1e-9


def setting(value: object, knob: Knob, places: Sequence[Place]) -> Plain:
    """Return a parameter in mergekit's syntax that has the knob's value at every place.

    Args:
        value: a profile; anything else means the knob's default.
        knob: the knob.
        places: the tensors of the merged model.

    Raises:
        ConfigError: mergekit cannot express the values.
    """
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
    """Return filters that name modules, as a person would write them; None if there are none."""
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
    """Return filters for tensors outside the layers whose value mergekit would get wrong.

    To these, mergekit gives a gradient's first value.
    """
    resolve = resolver(parts)
    outer = (p for p in places if p.layer is None)
    wrong = [p for p in outer if not _equal(resolve(p), profile.at(p))]
    wrong.sort(key=lambda place: -len(place.tensor))
    return [(p.tensor, (_at(profile, p),)) for p in wrong]


def _by_name(profile: Profile, places: Sequence[Place]) -> list[Part]:
    """Return one filter per tensor, longer names first, since they may contain shorter ones."""
    ordered = sorted(places, key=lambda place: -len(place.tensor))
    return [(place.tensor, (_at(profile, place),)) for place in ordered]


def _cover(wanted: Sequence[str], unwanted: Sequence[str]) -> list[str] | None:
    """Find a few substrings that together match all wanted names and no unwanted one."""
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
    """Return the runs of words in a dotted name without layer numbers, and the whole name."""
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


def resolver(parts: Sequence[Part]) -> Callable[[Place], float | None]:
    """Return a function that gives the value of a parameter for a tensor in mergekit 0.1.5."""

    def resolve(place: Place) -> float | None:
        depth = 0.0 if place.layer is None else place.depth
        for substring, knots in parts:
            if substring is None or substring in place.tensor:
                return interpolate(knots, depth)
        return None

    return resolve


def _same(parts: Sequence[Part], profile: Profile, places: Sequence[Place]) -> bool:
    resolve = resolver(parts)
    return all(_equal(resolve(place), profile.at(place)) for place in places)


def _equal(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and abs(one - other) <= TOLERANCE


def _at(profile: Profile, place: Place) -> float:
    value = profile.at(place)
    assert value is not None  # the profile ends with `default`
    return value
