"""Two studies side by side: on the objectives and items that both of them tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from automerge.estimation import Difference
from automerge.objective import Objective
from automerge.report.choice import choose
from automerge.report.compare import compare
from automerge.report.hypervolume import Box
from automerge.report.summary import Member, Summary, tested_losses
from automerge.store.result import StudyResult
from automerge.trial import Part


@dataclass(frozen=True)
class Paired:
    """The first study's model minus the second's, on the test items of both.

    `alone` counts the test items that only the first and only the second study has. `seen` counts
    the items of the pair that either study searched or selected on: its model may have been chosen
    by them.
    """

    objective: str
    difference: Difference
    alone: tuple[int, int]
    seen: int


@dataclass(frozen=True)
class Beside:
    """Two studies, compared.

    Attributes:
        models: the names of the models compared: each study's model to take, else its knee, else
            the first merge on its front.
        paired: by objective, those with items in common only.
        left_out: why other objectives are not compared, by objective.
        hypervolume: the share of a common box that each study's front dominates, over the goals
            that both have; None for fewer than two, or if the items are not the same.
    """

    models: tuple[str, str]
    paired: tuple[Paired, ...]
    left_out: Mapping[str, str]
    hypervolume: tuple[float, float] | None


def beside(one: Summary, other: Summary) -> Beside | None:
    """Compare the models to take of two studies; None before both have a tested front."""
    a, b = _chosen(one), _chosen(other)
    if a is None or b is None:
        return None
    theirs = {o.name: o for o in other.result.objectives}
    paired: list[Paired] = []
    left_out = dict.fromkeys(theirs, "only in the second study")
    for o in one.result.objectives:
        left_out.pop(o.name, None)
        reason = _unlike(o, theirs.get(o.name), one.result, other.result)
        difference = None if reason else compare(a.trial, b.trial, o)
        if difference is None:
            left_out[o.name] = reason or "no test item in common"
        else:
            paired.append(_paired(o, difference, one.result, other.result, a, b))
    return Beside((a.name, b.name), tuple(paired), left_out, _hypervolume(one, other, paired))


def _chosen(summary: Summary) -> Member | None:
    found = choose(summary)
    front = summary.front if summary.part == "test" else ()
    named = (m for m in front if found is not None and m.name == found.name)
    return next(named, next((m for m in front if m.knee), next(iter(front), None)))


def _unlike(
    o: Objective, their: Objective | None, one: StudyResult, other: StudyResult
) -> str | None:
    """Return why an objective is not the same in both studies; None if it is."""
    if their is None:
        return "only in the first study"
    if (o.task, o.metric, o.filter, o.aggregation) != (
        their.task,
        their.metric,
        their.filter,
        their.aggregation,
    ):
        return "another task or metric"
    leaves = _leaves(one, o) | _leaves(other, o)
    digests = one.provenance.tasks, other.provenance.tasks
    if any(digests[0].get(leaf) != digests[1].get(leaf) for leaf in leaves):
        return "other documents or settings"
    return None


def _leaves(result: StudyResult, o: Objective) -> set[str]:
    if o.is_exact:
        return set()
    return {task for task, _ in _items(result, "test", o)}


def _items(result: StudyResult, part: Part, o: Objective) -> set[tuple[str, int]]:
    found: set[tuple[str, int]] = set()
    for trial in result.trials:
        scores = trial.scores(part, o.name)
        if scores is not None:
            found |= set(scores.items)
    return found


def _paired(
    o: Objective,
    difference: Difference,
    one: StudyResult,
    other: StudyResult,
    a: Member,
    b: Member,
) -> Paired:
    scored = [set(s.items) if (s := m.trial.scores("test", o.name)) else set() for m in (a, b)]
    both = scored[0] & scored[1]
    before: tuple[Part, ...] = ("search", "select")
    used = {i for result in (one, other) for part in before for i in _items(result, part, o)}
    alone = (len(scored[0] - both), len(scored[1] - both))
    return Paired(o.name, difference, alone, 0 if o.is_exact else len(both & used))


def _hypervolume(
    one: Summary, other: Summary, paired: Sequence[Paired]
) -> tuple[float, float] | None:
    """Return shares of one box around both fronts; None unless both had the same test items."""
    goals = one.result.goals
    same = {p.objective for p in paired if p.alone == (0, 0)}
    theirs = {o.name: o.direction for o in other.result.goals}
    if len(goals) < 2 or {o.name: o.direction for o in goals} != theirs:
        return None
    if any(o.name not in same for o in goals):
        return None
    fronts = [
        [
            row
            for m in summary.members
            if m.on_front and (row := tested_losses(m.trial, goals)) is not None
        ]
        for summary in (one, other)
    ]
    if not all(fronts):
        return None
    box = Box.around([*fronts[0], *fronts[1]])
    return box.share(fronts[0]), box.share(fronts[1])
