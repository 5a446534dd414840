"""What can be concluded from the numbers, in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from automerge.report.choice import choose
from automerge.report.means import Means
from automerge.report.summary import Summary
from automerge.store.result import StudyResult, count
from automerge.trial import Measured


def conclusion(summary: Summary) -> tuple[str, ...]:
    """Return sentences about what was found, the model to take first.

    Claims are made only about sealed test items. Those about several merges on the front are
    corrected for their number (Bonferroni).
    """
    result = summary.result
    if not any(_measured(summary)):
        return (_nothing(summary),)
    if not result.front and result.constraints and result.state == "finished":
        bounds = ", ".join(map(str, result.constraints))
        return (f"On the select items, no model met the constraints ({bounds}).",)
    if not result.front:
        done = sum(_measured(summary))
        return (
            f"No front yet: {count(done, 'model')} measured; the budget is {result.limits}.",
            "Scores on search items are optimistic for models chosen by them; "
            "the front is chosen and tested when the search ends.",
        )
    if not summary.front:
        return (
            "No merge is on the front: on the select items, the models that went in "
            "are at least as good.",
        )
    if summary.part != "test" or not summary.detectable:
        return (
            f"{count(len(summary.front), 'merge')} on the front, not tested yet.",
            "No claim is made before the sealed test items are scored.",
        )
    claims = _mean_claims(summary, summary.means) if summary.means else _gain_claims(summary)
    take = choose(summary)
    first = "" if take is None else take.sentence
    return tuple(claim for claim in (first, *claims, _openings(result)) if claim)


def _openings(result: StudyResult) -> str:
    """Return a sentence if test items were looked at before the search had ended."""
    if result.openings < 2:
        return ""
    return (
        f"The study was extended after a test: {result.openings} shortlists were opened. If their "
        "test scores decided when to stop, these scores are optimistic."
    )


def _measured(summary: Summary) -> list[bool]:
    return [
        any(isinstance(outcome, Measured) for outcome in t.outcomes.values())
        for t in summary.result.trials
    ]


def _nothing(summary: Summary) -> str:
    result = summary.result
    failures = [t.failure for t in result.trials if t.failure is not None]
    if failures:
        _, first = failures[0]
        return f"All {count(len(failures), 'trial')} failed; the first: {first.reason}"
    if result.budget == 0:
        return "Nothing was measured: the budget was 0."
    return f"Nothing is measured yet; the budget is {result.limits}."


def _mean_claims(summary: Summary, means: Means) -> Sequence[str]:
    n, k = len(summary.front), len(summary.result.goals)
    unit = summary.units[summary.result.goals[0].name]
    where = summary.result.goals[0].name if k == 1 else f"the mean of {k} objectives"
    return (
        f"{_share(len(means.winners), n, 'every parent')} on {where}{_corrected(n)}.",
        _uniform_claim(summary, len(means.uniform_winners), f" on {where}"),
        "The smallest difference that this test split could have shown: "
        f"{unit.value(means.detectable)}{unit.noun}.",
    )


def _corrected(n: int) -> str:
    return f" (95 % confidence over all {n} together: stricter than the stars)" if n > 1 else ""


def _gain_claims(summary: Summary) -> Sequence[str]:
    n = len(summary.front)
    sizes = ", ".join(
        f"{o.name} {summary.units[o.name].value(size)}{summary.units[o.name].noun}"
        for o in summary.result.objectives
        if math.isfinite(size := summary.detectable.get(o.name, math.nan))
    )
    gains = len(summary.gains)
    where = " on an objective without measurable loss on another"
    return (
        f"{_share(gains, n, 'the best parent')}{where}{_corrected(n)}.",
        _uniform_claim(summary, len(summary.uniform_gains), where),
        f"The smallest differences that this test split could have shown: {sizes}."
        if sizes
        else "",
    )


def _share(winners: int, n: int, rival: str) -> str:
    if n == 1:
        verb = "beats" if winners else "does not measurably beat"
        return f"The one merge on the front {verb} {rival}"
    if not winners:
        return f"None of {n} merges on the front measurably beats {rival}"
    return f"{winners} of {n} merges on the front {'beats' if winners == 1 else 'beat'} {rival}"


def _uniform_claim(summary: Summary, winners: int, where: str) -> str:
    if summary.result.uniform is None or not any(m.versus_uniform for m in summary.front):
        return ""
    return f"{_share(winners, len(summary.front), 'the uniform average')}{where}."
