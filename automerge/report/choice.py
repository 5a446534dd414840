"""Which model to take: chosen on select items, judged on test items."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from automerge.estimation import Difference
from automerge.report.compare import LEVEL, compare, sum_of_losses, verdict
from automerge.report.means import Means, mean_versus
from automerge.report.summary import Member, Summary
from automerge.report.units import Unit

Rule: TypeAlias = Literal["mean", "compromise"]


@dataclass(frozen=True)
class Choice:
    """The model to take, and how it compares on test items.

    The rule is "mean" (the merge on the front whose mean over the goals is highest on select items)
    where all goals are percentages to maximise, else "compromise" (the merge nearest to the ideal
    point on select items). One model is chosen before the test is looked at, so its comparisons
    need no correction for the number of models. With the rule "compromise" they are corrected for
    the number of goals (Bonferroni), and the model beats a rival if it is better on a goal.
    `beats_uniform` is None if there is nothing to compare with.
    """

    name: str
    rule: Rule
    beats_parent: bool
    beats_uniform: bool | None
    sentence: str


def choose(summary: Summary) -> Choice | None:
    """Choose the model to take; None before the test, or if no merge is on the front."""
    if summary.part != "test" or not summary.front or not summary.detectable:
        return None
    if summary.means is not None:
        return _by_mean(summary, summary.means)
    knee = next((member for member in summary.front if member.knee), None)
    return None if knee is None else _by_compromise(summary, knee)


def ranked(summary: Summary) -> list[Member]:
    """Return the merges on the front: the one to take first, then by their means on select items.

    Without means, the others keep their order.
    """
    found = choose(summary)
    wanted = () if summary.means is None else summary.result.goals

    def key(member: Member) -> tuple[bool, float]:
        losses = sum_of_losses(member.trial, wanted)
        return found is None or member.name != found.name, math.inf if losses is None else losses

    return sorted(summary.front, key=key)


def _by_mean(summary: Summary, means: Means) -> Choice | None:
    goals = summary.result.goals
    members = {member.name: member for member in summary.members}
    member, unit = members[means.chosen], summary.units[goals[0].name]
    versus, score = means.versus[means.chosen], means.scores.get(means.chosen)
    if score is None:
        return None
    beats = versus.low > 0
    average = next((m for m in summary.members if m.kind == "baseline"), None)
    uniform = None if average is None else mean_versus(member.trial, average.trial, goals, LEVEL)
    what = goals[0].name if len(goals) == 1 else "mean"
    value = f"{what} {unit.value(score.value)} %"
    if beats:
        sentence = (
            f"Take {_called(member)}: {value}, {_span(unit, versus)} over {means.best_parent}, "
            "the best parent"
        )
        if uniform is not None and uniform.low <= 0:
            sentence += (
                ", but not measurably better than the uniform average "
                f"({_span(unit, uniform, brackets=False)})"
            )
    else:
        sentence = (
            f"No merge measurably beats {means.best_parent}, the best parent: {_called(member)}, "
            f"the best on select items, has {value}, {_span(unit, versus)}"
        )
    return Choice(
        member.name, "mean", beats, None if uniform is None else uniform.low > 0, f"{sentence}."
    )


def _by_compromise(summary: Summary, member: Member) -> Choice:
    goals = summary.result.goals
    members = {m.name: m for m in summary.members}
    average = next((m for m in summary.members if m.kind == "baseline"), None)
    level = 1 - (1 - LEVEL) / len(goals)
    against: dict[str, list[str]] = {"better": [], "worse": [], "unclear": []}
    uniform: list[str] = []
    for o in goals:
        rival = members.get(summary.best_parent.get(o.name, ""))
        found = None if rival is None else compare(member.trial, rival.trial, o, level)
        if rival is not None and found is not None:
            unit = summary.units[o.name]
            size = f"{unit.difference(found.difference)}{unit.noun}"
            against[verdict(found, o)].append(f"{o.name} ({size} against {rival.name})")
        if average and (found := compare(member.trial, average.trial, o, level)):
            uniform.append(verdict(found, o))
    words = "; ".join(f"{word} on {', '.join(texts)}" for word, texts in against.items() if texts)
    better = bool(against["better"])
    head = (
        f"Take {_called(member)}, the best compromise on select items"
        if better
        else "No merge measurably beats the best parent on any objective: "
        f"{_called(member)}, the best compromise on select items, is"
    )
    joint = ": " if better else " "
    return Choice(
        member.name,
        "compromise",
        better,
        "better" in uniform if uniform else None,
        f"{head}{joint}{words}.",
    )


def _called(member: Member) -> str:
    return f"{member.name} ({member.trial.trial.recipe.methods_in_words})"


def _span(unit: Unit, found: Difference, brackets: bool = True) -> str:
    size = f"{unit.difference(found.difference)}{unit.noun}"
    ends = f"95 %: {unit.difference(found.low)} to {unit.difference(found.high)}"
    return f"{size} ({ends})" if brackets else f"{size}, {ends}"
