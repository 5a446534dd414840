"""Means over objectives with a common unit, and which models beat which on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from automerge.estimation import (
    Difference,
    Interval,
    mean_difference,
    mean_interval,
    smallest_detectable_difference,
)
from automerge.objective import Objective
from automerge.report.compare import LEVEL, best_of, compare, part_interval
from automerge.store.result import TrialResult


@dataclass(frozen=True)
class Means:
    """Means over objectives with a common unit.

    `scores` are on test items, by member name, and `versus` compares them with `best_parent`, the
    best of parents and base by its mean on select items; `chosen` is the merge on the front that is
    best there. `winners` names the merges on the front that are better than every parent and the
    base at a family-wise level of 5 % over the front; `uniform_winners` those that are better than
    the uniform average. `detectable` is the smallest difference between `chosen` and `best_parent`
    that the test could have detected.
    """

    scores: Mapping[str, Interval]
    versus: Mapping[str, Difference]
    best_parent: str
    chosen: str
    winners: tuple[str, ...]
    uniform_winners: tuple[str, ...]
    detectable: float


def means_of(
    objectives: Sequence[Objective],
    trials: Sequence[TrialResult],
    front: Sequence[TrialResult],
    rivals: Sequence[TrialResult],
    uniform: TrialResult | None,
    corrected: float,
) -> Means | None:
    """Compare models by their means over objectives.

    Args:
        objectives: objectives with a common unit.
        trials: all models whose means are wanted.
        front: the merges on the front.
        rivals: the parents and the base.
        uniform: the uniform average, if it was measured.
        corrected: the confidence level at which a merge on the front beats a rival.

    Returns:
        The means; None if front or rivals lack select or test scores.
    """
    best, chosen = best_of(rivals, objectives), best_of(front, objectives)
    if best is None or chosen is None:
        return None
    versus = {
        t.trial.name: difference
        for t in trials
        if t is not best and (difference := mean_versus(t, best, objectives, LEVEL))
    }
    if chosen.trial.name not in versus:
        return None

    def beats(trial: TrialResult, rival: TrialResult) -> bool:
        difference = mean_versus(trial, rival, objectives, corrected)
        return difference is not None and difference.low > 0

    return Means(
        scores={
            t.trial.name: score for t in trials if (score := _mean_score(t, objectives)) is not None
        },
        versus=versus,
        best_parent=best.trial.name,
        chosen=chosen.trial.name,
        winners=tuple(t.trial.name for t in front if all(beats(t, rival) for rival in rivals)),
        uniform_winners=tuple(
            t.trial.name for t in front if uniform is not None and beats(t, uniform)
        ),
        detectable=smallest_detectable_difference(versus[chosen.trial.name]),
    )


def _mean_score(trial: TrialResult, objectives: Sequence[Objective]) -> Interval | None:
    found = [part_interval(trial, "test", o) for o in objectives]
    known = [score for score in found if score is not None]
    if len(known) != len(objectives):
        return None
    return mean_interval(known, [o.task for o in objectives])


def mean_versus(
    a: TrialResult, b: TrialResult, objectives: Sequence[Objective], level: float
) -> Difference | None:
    """Return the difference of two models' means on test items; None if a score is missing."""
    differences = [compare(a, b, o, level) for o in objectives]
    known = [d for d in differences if d is not None]
    if len(known) != len(objectives):
        return None
    return mean_difference(known, [o.task for o in objectives])
