"""What each stage of a search bought, and what a larger budget would bring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from automerge.store.result import StudyResult, TrialResult
from automerge.trial import BASELINES, Measured

MIN_TRIALS = 20
"""Fewer say nothing about how a course goes on."""
LITTLE = 0.01
"""A share of the hypervolume that is not worth twice the budget."""


@dataclass(frozen=True)
class Stage:
    """Trials of one kind: how many, their tokens, and how many of them are on the front."""

    name: str
    trials: int
    tokens: int
    front: int


def stages(result: StudyResult) -> tuple[Stage, ...]:
    """Return what each kind of trial cost and brought, in the order in which a search has them."""
    found: dict[str, list[TrialResult]] = {}
    for trial in result.trials:
        found.setdefault(_stage(trial), []).append(trial)
    front = set(result.front)
    return tuple(
        Stage(
            name,
            len(trials),
            sum(
                outcome.tokens
                for t in trials
                if isinstance(outcome := t.outcomes.get("search"), Measured)
            ),
            sum(t.trial.number in front for t in trials),
        )
        for name, trials in found.items()
    )


def _stage(trial: TrialResult) -> str:
    origin = trial.trial.origin
    if origin in BASELINES:
        return "models that went in, uniform average"
    if origin == "recipe":
        return "your recipes"
    if origin == "start":
        return "merges that searches begin with"
    return "proposals with slopes" if trial.trial.slopes else "proposals"


def gain_of_second_half(course: Sequence[float]) -> float | None:
    """Return the share of a course's end that its second half added; None if it is too short.

    A course whose gains shrink as those of most searches do, at least as fast as a logarithm's,
    gains no more from another doubling of its length.

    Args:
        course: what was reached after each trial, never falling, from 0.
    """
    if len(course) < MIN_TRIALS or course[-1] <= 0:
        return None
    return (course[-1] - course[len(course) // 2 - 1]) / course[-1]


def prospect(course: Sequence[float]) -> str:
    """Say what twice the budget would bring; empty if the course is too short.

    Args:
        course: the hypervolume after each trial.
    """
    gain = gain_of_second_half(course)
    if gain is None:
        return ""
    if gain < LITTLE:
        return (
            f"The second half of the trials added less than {100 * LITTLE:.0f} % of the "
            "hypervolume: a larger budget would bring little."
        )
    return (
        f"The second half of the trials added {100 * gain:.0f} % of the hypervolume: twice the "
        "budget would bring about as much again, or less."
    )
