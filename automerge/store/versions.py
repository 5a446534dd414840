"""Which scores of a study are of which versions of the libraries: a resumed run may have others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise

from automerge.store.result import Versions, count
from automerge.store.store import Store
from automerge.trial import PARTS


def record_versions(store: Store, now: Versions) -> None:
    """Keep the versions that a run measures with, where they are not those of the run before."""
    measured = len(store.measurements())
    provenance = store.meta("provenance")
    known = store.meta("versions") or []
    later = [entry for entry in known if entry["after"] < measured]  # the others gave no scores
    if not measured:
        provenance = {**provenance, "versions": dict(now)}
    elif now != (later[-1] if later else provenance)["versions"]:
        later.append({"after": measured, "versions": dict(now)})
    if later != known or provenance != store.meta("provenance"):
        store.put_meta(versions=later, provenance=provenance)


def all_versions(store: Store) -> Versions:
    """Every package's version, or its versions one after the other where runs had several."""
    runs = [versions for _, versions in _runs(store)]
    names = dict.fromkeys(name for versions in runs for name in versions)
    held = {name: dict.fromkeys(versions.get(name, "none") for versions in runs) for name in names}
    return {name: ", then ".join(found) for name, found in held.items()}


def version_warnings(store: Store) -> tuple[str, ...]:
    """Say of every change of versions what was measured since, and that it may show."""
    measured = store.measurements()
    warnings = []
    for (_, before), (after, now) in pairwise(_runs(store)):
        since = {part: {t for n, t, p in measured if n > after and p == part} for part in PARTS}
        scored = "; ".join(f"{part}: {_ranges(found)}" for part, found in since.items() if found)
        warnings.append(
            f"versions changed after {count(after, 'measurement')}: {changes(before, now)}; scores "
            f"from before and after may differ for that alone. Trials measured since, by items: "
            f"{scored or 'none yet'}"
        )
    return tuple(warnings)


def changes(before: Versions, now: Versions) -> str:
    """Name what differs: torch 2.12.0, now 2.13.0."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return ", ".join(f"{n} {before.get(n, 'none')}, now {now.get(n, 'none')}" for n in names)


def _runs(store: Store) -> list[tuple[int, Mapping[str, str]]]:
    """After how many measurements runs with other versions began, and those versions."""
    later = [(entry["after"], entry["versions"]) for entry in store.meta("versions") or []]
    return [(0, store.meta("provenance")["versions"]), *later]


def _ranges(numbers: Iterable[int]) -> str:
    """Write numbers as ranges: 3, 5 to 9."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][-1] + 1:
            found[-1][1:] = [number]
        else:
            found.append([number])
    return ", ".join(" to ".join(map(str, ends)) for ends in found)
