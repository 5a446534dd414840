"""Which library versions a study's scores come from, since a resumed run may have others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

from automerge.store.record import Run
from automerge.store.result import Versions, count
from automerge.store.store import Store
from automerge.trial import PARTS


def record_versions(store: Store, now: Versions) -> None:
    """Record the versions that a run measures with, if they differ from those of the last run."""
    measured = len(store.measurements())
    current = store.study.current
    kept = [run for run in current.versions if run.after < measured]  # others measured nothing
    if not kept or now != kept[-1].versions:
        kept.append(Run(measured, now))
    if tuple(kept) != current.versions:
        store.renew(replace(current, versions=tuple(kept)))


def all_versions(store: Store) -> Versions:
    """Return every package's version, or its versions in order if runs had several."""
    runs = [run.versions for run in store.study.current.versions]
    names = dict.fromkeys(name for versions in runs for name in versions)
    held = {name: dict.fromkeys(versions.get(name, "none") for versions in runs) for name in names}
    return {name: ", then ".join(found) for name, found in held.items()}


def version_warnings(store: Store) -> tuple[str, ...]:
    """Return a warning per change of versions, with the trials that were measured since."""
    measured = store.measurements()
    warnings = []
    for before, now in pairwise(store.study.current.versions):
        since = {part: {t for n, t, p in measured if n > now.after and p == part} for part in PARTS}
        scored = "; ".join(f"{part}: {_ranges(found)}" for part, found in since.items() if found)
        warnings.append(
            f"versions changed after {count(now.after, 'measurement')}: "
            f"{changes(before.versions, now.versions)}; scores "
            f"from before and after may differ for this reason alone. Trials measured since, by "
            f"items: "
            f"{scored or 'none yet'}"
        )
    return tuple(warnings)


def changes(before: Versions, now: Versions) -> str:
    """Name what differs, as in "torch 2.12.0, now 2.13.0"."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return ", ".join(f"{n} {before.get(n, 'none')}, now {now.get(n, 'none')}" for n in names)


def _ranges(numbers: Iterable[int]) -> str:
    """Format numbers as ranges: 3, 5 to 9."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][-1] + 1:
            found[-1][1:] = [number]
        else:
            found.append([number])
    return ", ".join(" to ".join(map(str, ends)) for ends in found)
