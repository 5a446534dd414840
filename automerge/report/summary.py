"""From a study to the comparisons every form of the report shows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from automerge.estimation import (
    Difference,
    Interval,
    Optimism,
    interval,
    mean_difference,
    mean_interval,
    optimism,
    paired_difference,
    smallest_detectable_difference,
)
from automerge.objective import Estimate, Objective
from automerge.report.hypervolume import Hypervolume, hypervolume_of_sets
from automerge.report.model import StudyResult, TrialResult
from automerge.report.units import Unit, units
from automerge.trial import PARTS, Part

Kind = Literal["front", "parent", "base", "baseline"]
Scores: TypeAlias = Mapping[str, Mapping[Part, Interval | None]]

LEVEL = 0.95


@dataclass(frozen=True)
class Versus:
    """A member compared with another model on test items; a raw difference, member - other."""

    against: str
    difference: Difference


@dataclass(frozen=True)
class Member:
    """A row of the report: a front model, a parent, the base or the uniform average.

    `versus_uniform` and `versus_parent` go from objective names to comparisons on test items.
    """

    kind: Kind
    on_front: bool
    knee: bool
    trial: TrialResult
    scores: Scores
    versus_parent: Mapping[str, Versus]
    versus_uniform: Mapping[str, Versus]

    @property
    def name(self) -> str:
        """The trial's name."""
        return self.trial.trial.name


@dataclass(frozen=True)
class Means:
    """Means over objectives that share a unit.

    `scores` are on test items, by member name, and `versus` compares with `best_parent`, the best
    of parents and base by its mean on select items; `chosen` is the front model best there.
    `winners` names the front models better than every parent and the base at a family-wise level
    of 5 % over the front models; `uniform_winners` likewise against the uniform average.
    """

    scores: Mapping[str, Interval]
    versus: Mapping[str, Difference]
    best_parent: str
    chosen: str
    winners: tuple[str, ...]
    uniform_winners: tuple[str, ...]
    detectable: float


@dataclass(frozen=True)
class Summary:
    """Everything compared; `part` is the most trustworthy part of the split with any scores.

    `best_parent` goes from objective names to the best of parents and base on select items.
    `gains` and `uniform_gains` name front models measurably better somewhere and worse nowhere.
    `detectable` is the median smallest detectable difference to the best parent by objective.
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

    @property
    def front(self) -> tuple[Member, ...]:
        """The merged models on the front, without parents, base and uniform average."""
        return tuple(member for member in self.members if member.kind == "front")


def summarise(result: StudyResult) -> Summary:
    """Compare front models, parents, base and uniform average on the sealed test items."""
    trials = {t.trial.number: t for t in result.trials}
    unit = units(result.objectives, result.trials)
    rivals = [
        trials[number] for number in (*result.parents, *_present(result.base)) if number in trials
    ]
    uniform = trials.get(result.uniform) if result.uniform is not None else None
    best = {o.name: _best_on_select(rivals, [o]) for o in result.objectives}
    members = tuple(
        _member(result, trials[number], kind, best, uniform)
        for number, kind in _rows(result).items()
        if number in trials
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
        gains=_gains(result.objectives, front, best, corrected),
        uniform_gains=_gains(
            result.objectives, front, {o.name: uniform for o in result.objectives}, corrected
        ),
        means=_means(result, unit, members, rivals, uniform, corrected),
        hypervolume=_hypervolume(result.objectives, members),
    )


def compare(
    a: TrialResult, b: TrialResult, objective: Objective, level: float = LEVEL
) -> Difference | None:
    """Compare two trials on their common test items; None where either has none."""
    scores_a, scores_b = a.scores("test", objective.name), b.scores("test", objective.name)
    if scores_a is None or scores_b is None:
        return None
    difference = paired_difference(scores_a, scores_b, objective.aggregation, level)
    return difference if difference.n else None


def verdict(difference: Difference, objective: Objective) -> Literal["better", "worse", "unclear"]:
    """Say which way a difference goes when its interval excludes zero."""
    if not difference.excludes_zero:
        return "unclear"
    improves = (difference.difference > 0) == (objective.direction == "maximize")
    return "better" if improves else "worse"


def _present(number: int | None) -> tuple[int, ...]:
    return () if number is None else (number,)


def _rows(result: StudyResult) -> dict[int, Kind]:
    rows: dict[int, Kind] = dict.fromkeys(result.front, "front")
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
            o.name: {part: _part_interval(trial, part, o) for part in PARTS}
            for o in result.objectives
        },
        versus_parent=parents,
        versus_uniform=uniforms,
    )


def _part_interval(trial: TrialResult, part: Part, objective: Objective) -> Interval | None:
    scores = trial.scores(part, objective.name)
    if scores is None or not scores.values:
        return None
    plain = interval(scores, objective.aggregation, LEVEL)
    believed = trial.believed.get(objective.name)
    return plain if part != "search" or believed is None else _normal_interval(believed)


def _normal_interval(believed: Estimate) -> Interval:
    half = statistics.NormalDist().inv_cdf((1 + LEVEL) / 2) * believed.stderr
    value = believed.value
    return Interval(value, value - half, value + half, believed.stderr, believed.n)


def _best_part(members: Sequence[Member]) -> Part:
    for part in reversed(PARTS):
        if any(scores[part] is not None for m in members for scores in m.scores.values()):
            return part
    return "search"


def _select_losses(trial: TrialResult, objectives: Sequence[Objective]) -> float | None:
    total = 0.0
    for o in objectives:
        scores = trial.scores("select", o.name)
        if scores is None or not scores.values:
            return None
        total += o.loss(interval(scores, o.aggregation).value)
    return total


def _best_on_select(
    trials: Sequence[TrialResult], objectives: Sequence[Objective]
) -> TrialResult | None:
    losses = [(_select_losses(t, objectives), row) for row, t in enumerate(trials)]
    known = [(loss, row) for loss, row in losses if loss is not None and not math.isnan(loss)]
    return trials[min(known)[1]] if known else None


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


def _mean_versus(
    a: TrialResult, b: TrialResult, objectives: Sequence[Objective], level: float
) -> Difference | None:
    differences = [compare(a, b, o, level) for o in objectives]
    known = [d for d in differences if d is not None]
    if len(known) != len(objectives):
        return None
    return mean_difference(known, [o.task for o in objectives])


def _means(
    result: StudyResult,
    unit: Mapping[str, Unit],
    members: Sequence[Member],
    rivals: Sequence[TrialResult],
    uniform: TrialResult | None,
    corrected: float,
) -> Means | None:
    objectives = result.objectives
    if not all(unit[o.name].percent and o.direction == "maximize" for o in objectives):
        return None
    front = [m.trial for m in members if m.kind == "front"]
    best, chosen = _best_on_select(rivals, objectives), _best_on_select(front, objectives)
    if best is None or chosen is None:
        return None
    versus = {
        m.name: difference
        for m in members
        if m.trial is not best and (difference := _mean_versus(m.trial, best, objectives, LEVEL))
    }
    if chosen.trial.name not in versus:
        return None

    def beats(trial: TrialResult, rival: TrialResult) -> bool:
        difference = _mean_versus(trial, rival, objectives, corrected)
        return difference is not None and difference.low > 0

    scores = {}
    for m in members:
        known = [t for o in objectives if (t := m.scores[o.name]["test"]) is not None]
        if len(known) == len(objectives):
            scores[m.name] = mean_interval(known, [o.task for o in objectives])
    return Means(
        scores=scores,
        versus=versus,
        best_parent=best.trial.name,
        chosen=chosen.trial.name,
        winners=tuple(t.trial.name for t in front if all(beats(t, rival) for rival in rivals)),
        uniform_winners=tuple(
            t.trial.name for t in front if uniform is not None and beats(t, uniform)
        ),
        detectable=smallest_detectable_difference(versus[chosen.trial.name]),
    )


def _hypervolume(objectives: Sequence[Objective], members: Sequence[Member]) -> Hypervolume | None:
    losses: dict[str, list[float]] = {}
    for m in members:
        tests = [m.scores[o.name]["test"] for o in objectives]
        point = [o.loss(t.value) for o, t in zip(objectives, tests, strict=True) if t is not None]
        if len(point) == len(objectives) and all(map(math.isfinite, point)):
            losses[m.name] = point

    def of(chosen: Sequence[Member]) -> list[list[float]]:
        return [losses[m.name] for m in chosen if m.name in losses]

    return hypervolume_of_sets(
        objectives,
        front=of([m for m in members if m.on_front]),
        parents=of([m for m in members if m.kind in ("parent", "base")]),
        uniform=of([m for m in members if m.kind == "baseline"]),
    )
