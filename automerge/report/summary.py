"""From a study to the comparisons that every form of the report shows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from automerge.estimation import (
    Interval,
    Optimism,
    optimism,
    smallest_detectable_difference,
)
from automerge.objective import Estimate, Objective
from automerge.report.compare import (
    LEVEL,
    Versus,
    best_of,
    compare,
    part_interval,
    verdict,
)
from automerge.report.hypervolume import Hypervolume, hypervolume_of_sets
from automerge.report.likely import Kept, bounds_on_test, front_probabilities, kept_constraints
from automerge.report.means import Means, means_of
from automerge.report.units import Unit, units
from automerge.store.result import StudyResult, TrialResult
from automerge.trial import PARTS, Part

Kind = Literal["front", "parent", "base", "baseline", "trial"]
Scores: TypeAlias = Mapping[str, Mapping[Part, Interval | None]]


@dataclass(frozen=True)
class Member:
    """A row of the report: a merge on the front, a parent, the base or the uniform average.

    `versus_uniform` and `versus_parent` map objective names to comparisons on test items; `kept`
    judges the study's constraints on them.
    """

    kind: Kind
    on_front: bool
    knee: bool
    trial: TrialResult
    scores: Scores
    versus_parent: Mapping[str, Versus]
    versus_uniform: Mapping[str, Versus]
    kept: tuple[Kept, ...]

    @property
    def name(self) -> str:
        """The trial's name."""
        return self.trial.trial.name


@dataclass(frozen=True)
class Summary:
    """All comparisons; `part` is the most trustworthy part of the split that has any scores.

    `best_parent` maps objective names to the best of parents and base on select items (of held-out
    ones on test items, in the parent's favour). `gains` and
    `uniform_gains` name merges on the front that are measurably better on some objective than the
    best parent or the uniform average, and worse on none. `detectable` is the median smallest
    detectable difference to the best parent, by objective; `likely` is how often each member is
    nondominated when test items are bootstrapped.
    """

    result: StudyResult
    units: Mapping[str, Unit]
    part: Part
    members: tuple[Member, ...]
    best_parent: Mapping[str, str]
    optimism: Mapping[str, Optimism]
    detectable: Mapping[str, float]
    gains: tuple[str, ...]
    uniform_gains: tuple[str, ...]
    means: Means | None
    hypervolume: Hypervolume | None
    likely: Mapping[str, float]

    @property
    def front(self) -> tuple[Member, ...]:
        """The merged models on the front, without parents, base and uniform average."""
        return tuple(member for member in self.members if member.kind == "front")

    def including(self, numbers: Sequence[int]) -> Summary:
        """Return a summary in which these trials are also members."""
        known = {member.trial.trial.number for member in self.members}
        return self if known.issuperset(numbers) else summarise(self.result, numbers)


def summarise(result: StudyResult, also: Sequence[int] = ()) -> Summary:
    """Compare the merges on the front, parents, base and uniform average on the sealed test items.

    Args:
        result: the study.
        also: numbers of further trials to compare, which get the kind "trial".
    """
    trials = {t.trial.number: t for t in result.trials}
    unit = units(result.objectives, result.trials)
    rivals = [
        trials[number] for number in (*result.parents, *_present(result.base)) if number in trials
    ]
    uniform = trials.get(result.uniform) if result.uniform is not None else None
    best = {
        o.name: best_of(rivals, [o], "test" if o.held_out else "select") for o in result.objectives
    }
    rows = {n: kind for n, kind in _rows(result, also).items() if n in trials}
    named = {trials[number].trial.name: trials[number] for number in rows}
    held = bounds_on_test(result, named.values())
    members = tuple(
        _member(
            result,
            trials[number],
            kind,
            best,
            uniform,
            kept_constraints(result, held, named, trials[number]),
        )
        for number, kind in rows.items()
    )
    front = [member for member in members if member.kind == "front"]
    k = max(len(front), 1)
    corrected = 1 - (1 - LEVEL) / k
    return Summary(
        result=result,
        units=unit,
        part=_best_part(members),
        members=members,
        best_parent={name: t.trial.name for name, t in best.items() if t is not None},
        optimism=_optimisms(result, front),
        detectable=_detectable(result.objectives, front),
        gains=_gains(result.goals, front, best, corrected),
        uniform_gains=_gains(
            result.goals, front, {o.name: uniform for o in result.goals}, corrected
        ),
        means=_means(result.goals, unit, members, rivals, uniform, corrected),
        hypervolume=_hypervolume(result.goals, members, result.trials),
        likely=front_probabilities(result.goals, list(named.values())),
    )


def _present(number: int | None) -> tuple[int, ...]:
    return () if number is None else (number,)


def _rows(result: StudyResult, also: Sequence[int]) -> dict[int, Kind]:
    rows: dict[int, Kind] = dict.fromkeys(also, "trial")
    rows |= dict.fromkeys(result.front, "front")
    special: dict[int, Kind] = dict.fromkeys(result.parents, "parent")
    special |= dict.fromkeys(_present(result.base), "base")
    special |= dict.fromkeys(_present(result.uniform), "baseline")
    merges = {number: kind for number, kind in rows.items() if number not in special}
    return merges | special


def _member(
    result: StudyResult,
    trial: TrialResult,
    kind: Kind,
    best: Mapping[str, TrialResult | None],
    uniform: TrialResult | None,
    kept: tuple[Kept, ...],
) -> Member:
    parents: dict[str, Versus] = {}
    uniforms: dict[str, Versus] = {}
    for o in result.objectives:
        for rival, found in ((best[o.name], parents), (uniform, uniforms)):
            if rival is None or rival.trial.number == trial.trial.number:
                continue
            if (difference := compare(trial, rival, o)) is not None:
                found[o.name] = Versus(rival.trial.name, difference)
    return Member(
        kind=kind,
        on_front=trial.trial.number in result.front,
        knee=trial.trial.number == result.knee,
        trial=trial,
        scores={
            o.name: {part: part_interval(trial, part, o) for part in PARTS}
            for o in result.objectives
        },
        versus_parent=parents,
        versus_uniform=uniforms,
        kept=kept,
    )


def _best_part(members: Sequence[Member]) -> Part:
    for part in reversed(PARTS):
        if any(scores[part] is not None for m in members for scores in m.scores.values()):
            return part
    return "search"


def _optimisms(result: StudyResult, front: Sequence[Member]) -> dict[str, Optimism]:
    found = {}
    for o in result.objectives:
        pairs = [
            (search, test)
            for m in front
            if (search := _as_estimate(m.scores[o.name]["search"]))
            and (test := _as_estimate(m.scores[o.name]["test"]))
        ]
        if pairs:
            found[o.name] = optimism([s for s, _ in pairs], [t for _, t in pairs], o.direction)
    return found


def _as_estimate(found: Interval | None) -> Estimate | None:
    return None if found is None else Estimate(found.value, found.stderr, found.n)


def _detectable(objectives: Sequence[Objective], front: Sequence[Member]) -> dict[str, float]:
    found = {}
    for o in objectives:
        sizes = [
            smallest_detectable_difference(m.versus_parent[o.name].difference)
            for m in front
            if o.name in m.versus_parent
        ]
        if sizes:
            found[o.name] = statistics.median(sizes)
    return found


def _gains(
    objectives: Sequence[Objective],
    front: Sequence[Member],
    rivals: Mapping[str, TrialResult | None],
    level: float,
) -> tuple[str, ...]:
    gains = []
    for m in front:
        verdicts = [
            verdict(difference, o)
            for o in objectives
            if (rival := rivals[o.name]) is not None
            and (difference := compare(m.trial, rival, o, 1 - (1 - level) / len(objectives)))
        ]
        if len(verdicts) == len(objectives) and "better" in verdicts and "worse" not in verdicts:
            gains.append(m.name)
    return tuple(gains)


def _means(
    objectives: Sequence[Objective],
    unit: Mapping[str, Unit],
    members: Sequence[Member],
    rivals: Sequence[TrialResult],
    uniform: TrialResult | None,
    corrected: float,
) -> Means | None:
    if not all(unit[o.name].percent and o.direction == "maximize" for o in objectives):
        return None
    trials = [m.trial for m in members]
    front = [m.trial for m in members if m.kind == "front"]
    return means_of(objectives, trials, front, rivals, uniform, corrected)


def tested_losses(trial: TrialResult, objectives: Sequence[Objective]) -> list[float] | None:
    """Return a trial's losses on test items; None unless all are there and finite."""
    tests = [part_interval(trial, "test", o) for o in objectives]
    row = [o.loss(t.value) for o, t in zip(objectives, tests, strict=True) if t is not None]
    return row if len(row) == len(tests) and all(map(math.isfinite, row)) else None


def _hypervolume(
    objectives: Sequence[Objective], members: Sequence[Member], trials: Sequence[TrialResult]
) -> Hypervolume | None:
    def of(chosen: Sequence[Member]) -> list[list[float]]:
        return tested([m.trial for m in chosen])

    def tested(chosen: Sequence[TrialResult]) -> list[list[float]]:
        return [row for t in chosen if (row := tested_losses(t, objectives)) is not None]

    return hypervolume_of_sets(
        objectives,
        front=of([m for m in members if m.on_front]),
        parents=of([m for m in members if m.kind in ("parent", "base")]),
        uniform=of([m for m in members if m.kind == "baseline"]),
        sweep=tested([t for t in trials if t.trial.origin == "sweep"]),
    )
