"""How likely members belong on the front, and if they meet the constraints, on test items."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from automerge.constraint import Bound, Constraint, bounds
from automerge.estimation import interval, nondominated_probability
from automerge.estimation.clusters import by_cluster
from automerge.estimation.intervals import influence
from automerge.objective import ItemScores, Objective, estimate, estimates
from automerge.report.compare import LEVEL, compare
from automerge.store.result import StudyResult, TrialResult


@dataclass(frozen=True)
class Kept:
    """A member's value on test items, compared with a constraint's bound.

    `verdict` is "unclear" if the 95 % interval of their difference contains zero.
    """

    constraint: Constraint
    value: float
    bound: float
    verdict: Literal["kept", "missed", "unclear"]


def front_probabilities(
    objectives: Sequence[Objective], members: Sequence[TrialResult]
) -> dict[str, float]:
    """Return how often each tested member is nondominated when test items are bootstrapped.

    Empty if fewer than two were tested, or not all on the same items.
    """
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
    """Return values whose mean is the aggregate to first order, one per item or per cluster."""
    aggregation = objective.aggregation
    values = estimate(scores, aggregation).value + influence(scores, aggregation)
    return values if scores.clusters is None else by_cluster(values, scores.clusters)[0]


def bounds_on_test(result: StudyResult, trials: Iterable[TrialResult]) -> list[Bound]:
    """Return the constraints' bounds on test items, if the models they refer to were tested."""
    values = {}
    for t in trials:
        own = {o.name: s for o in result.objectives if (s := t.scores("test", o.name)) is not None}
        if len(own) == len(result.objectives):
            values[t.trial.name] = estimates(result.objectives, own)
    numbers = (result.base, *result.parents)
    parents = [t.trial.name for t in result.trials if t.trial.number in numbers]
    return bounds(result.constraints, result.objectives, values, parents)


def kept_constraints(
    result: StudyResult,
    held: Iterable[Bound],
    trials: Mapping[str, TrialResult],
    member: TrialResult,
) -> tuple[Kept, ...]:
    """Judge a member by the bounds on test items.

    Args:
        result: the study.
        held: the bounds.
        trials: the models that the bounds refer to, by name.
        member: the member to judge.

    Returns:
        A judgement per bound; none for a member that was not tested.
    """
    by_name = {o.name: o for o in result.objectives}
    found = []
    for bound in held:
        constraint = bound.constraint
        o = by_name[constraint.objective]
        if (scores := member.scores("test", o.name)) is None:
            continue
        against = None if bound.model is None else compare(member, trials[bound.model], o)
        if against is None:
            alone = interval(scores, o.aggregation, LEVEL)
            limits = (alone.low - bound.value, alone.high - bound.value)
        else:
            limits = (against.low - constraint.offset, against.high - constraint.offset)
        value = estimate(scores, o.aggregation).value
        found.append(Kept(constraint, value, bound.value, _verdict(constraint, limits)))
    return tuple(found)


def _verdict(
    constraint: Constraint, limits: tuple[float, float]
) -> Literal["kept", "missed", "unclear"]:
    """Judge the limits of an interval of value − bound."""
    best, worst = sorted(constraint.shortfall(limit, 0.0) for limit in limits)
    if worst <= 0:
        return "kept"
    return "missed" if best > 0 else "unclear"
