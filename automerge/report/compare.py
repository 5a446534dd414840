"""Compare trials: intervals of one, paired differences of two, the best on select items."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from automerge.estimation import Difference, Interval, interval, paired_difference
from automerge.estimation.intervals import student_interval
from automerge.objective import Estimate, Objective
from automerge.store.result import TrialResult
from automerge.trial import Part

LEVEL = 0.95


@dataclass(frozen=True)
class Versus:
    """A member compared with another model on test items; the difference is member − other."""

    against: str
    difference: Difference


def compare(
    a: TrialResult, b: TrialResult, objective: Objective, level: float = LEVEL
) -> Difference | None:
    """Compare two trials on their common test items; return None if there are none."""
    scores_a, scores_b = a.scores("test", objective.name), b.scores("test", objective.name)
    if scores_a is None or scores_b is None:
        return None
    difference = paired_difference(scores_a, scores_b, objective.aggregation, level)
    return difference if difference.n else None


def verdict(difference: Difference, objective: Objective) -> Literal["better", "worse", "unclear"]:
    """Judge a difference by its interval; it is unclear unless the interval excludes zero."""
    if not difference.excludes_zero:
        return "unclear"
    improves = (difference.difference > 0) == (objective.direction == "maximize")
    return "better" if improves else "worse"


def part_interval(trial: TrialResult, part: Part, objective: Objective) -> Interval | None:
    """Return a trial's score on one part; on search items, what the search believed."""
    scores = trial.scores(part, objective.name)
    if scores is None or not scores.values:
        return None
    believed = trial.believed.get(objective.name)
    if part == "search" and believed is not None and not objective.is_exact:
        return _believed_interval(believed)
    return interval(scores, objective.aggregation, LEVEL)


def _believed_interval(believed: Estimate) -> Interval:
    """Return the interval of an estimate, less two degrees of freedom for fitted coefficients."""
    value, stderr, n = believed.value, believed.stderr, believed.n
    low, high = student_interval(value, stderr, n - 1, LEVEL) if n > 2 else (-math.inf, math.inf)
    return Interval(value, low, high, stderr, n)


def sum_of_losses(
    trial: TrialResult, objectives: Sequence[Objective], part: Part = "select"
) -> float | None:
    """Return the sum of a trial's losses on a part's items; None without scores."""
    total = 0.0
    for o in objectives:
        scores = trial.scores(part, o.name)
        if scores is None or not scores.values:
            return None
        total += o.loss(interval(scores, o.aggregation).value)
    return total


def best_of(
    trials: Sequence[TrialResult], objectives: Sequence[Objective], part: Part = "select"
) -> TrialResult | None:
    """Return the trial with the smallest sum of losses on a part's items; None without scores."""
    losses = [(sum_of_losses(t, objectives, part), row) for row, t in enumerate(trials)]
    known = [(loss, row) for loss, row in losses if loss is not None and not math.isnan(loss)]
    return trials[min(known)[1]] if known else None
