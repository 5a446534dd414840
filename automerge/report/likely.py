"""How surely members belong to the front, and whether they keep the constraints, on test items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from automerge.constraint import Constraint
from automerge.estimation import interval, nondominated_probability
from automerge.estimation.clusters import by_cluster
from automerge.estimation.intervals import influence
from automerge.objective import ItemScores, Objective, estimate
from automerge.report.compare import LEVEL, compare
from automerge.report.model import StudyResult, TrialResult


@dataclass(frozen=True)
class Kept:
    """A member's value on test items against a constraint's bound.

    `verdict` is "unclear" where the 95 % interval of their difference holds zero.
    """

    constraint: Constraint
    value: float
    bound: float
    verdict: Literal["kept", "missed", "unclear"]


def front_probabilities(
    objectives: Sequence[Objective], members: Sequence[TrialResult]
) -> dict[str, float]:
    """How often each tested member is dominated by no other when test items are drawn again."""
    tested = [m for m in members if all(m.scores("test", o.name) for o in objectives)]
    if len(tested) < 2:
        return {}
    losses, groups, seen = [], [], dict[object, int]()
    for o in objectives:
        scores = [s for m in tested if (s := m.scores("test", o.name)) is not None]
        if not scores[0].items or any(s.items != scores[0].items for s in scores):
            return {}
        losses.append(np.array([o.loss(1.0) * _linear(s, o) for s in scores]))
        groups.append(seen.setdefault(scores[0].items, len(seen)))
    found = nondominated_probability(losses, groups)
    return {m.trial.name: float(p) for m, p in zip(tested, found, strict=True)}


def _linear(scores: ItemScores, objective: Objective) -> np.ndarray:
    """Values whose mean is the aggregate, to first order: an item's, or a cluster's in all."""
    aggregation = objective.aggregation
    values = estimate(scores, aggregation).value + influence(scores, aggregation)
    return values if scores.clusters is None else by_cluster(values, scores.clusters)[0]


def kept_constraints(
    result: StudyResult, trials: Mapping[str, TrialResult], member: TrialResult
) -> tuple[Kept, ...]:
    """Judge each constraint whose models were tested; `trials` are they, by name."""
    by_name = {o.name: o for o in result.objectives}
    numbers = [n for n in (result.base, *result.parents) if n is not None]
    parents = [t.trial.name for t in trials.values() if t.trial.number in numbers]
    found = []
    for constraint in result.constraints:
        o = by_name[constraint.objective]
        values = {
            name: estimate(scores, o.aggregation).value
            for name, trial in trials.items()
            if (scores := trial.scores("test", o.name)) is not None
        }
        bound = constraint.bound(values, parents, o.direction)
        if bound is None or (scores := member.scores("test", o.name)) is None:
            continue
        value = values[member.trial.name]
        rival = constraint.referred(values, parents, o.direction)
        against = None if rival is None else compare(member, trials[rival], o)
        if against is None:
            alone = interval(scores, o.aggregation, LEVEL)
            limits = (alone.low - bound, alone.high - bound)
        else:
            limits = (against.low - constraint.offset, against.high - constraint.offset)
        found.append(Kept(constraint, value, bound, _verdict(constraint, limits)))
    return tuple(found)


def _verdict(
    constraint: Constraint, limits: tuple[float, float]
) -> Literal["kept", "missed", "unclear"]:
    """Judge the limits of value - bound."""
    best, worst = sorted(constraint.shortfall(limit, 0.0) for limit in limits)
    if worst <= 0:
        return "kept"
    return "missed" if best > 0 else "unclear"
