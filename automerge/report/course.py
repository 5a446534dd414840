"""What each stage of a search bought, and what a larger budget would bring."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from automerge import pareto
from automerge.arrays import Floats
from automerge.report.draws import draw_losses
from automerge.report.hypervolume import Box
from automerge.report.units import units
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
    if origin == "sweep":
        return "sweep of linear merges"
    if origin == "recipe":
        return "your recipes"
    if origin == "start":
        return "merges that searches begin with"
    return "proposals with slopes" if trial.trial.slopes else "proposals"


@dataclass(frozen=True)
class SecondHalf:
    """What the second half of the trials added to what the first half had reached.

    `added` is the expected value, `low` and `high` are its 95 % interval: a share of the
    hypervolume at the end or, with a single goal, how much the best loss fell.
    """

    added: float
    low: float
    high: float
    single: bool

    @property
    def is_told_apart(self) -> bool:
        """Whether the interval excludes nothing, or too little to be worth twice the budget."""
        return self.low > (0.0 if self.single else LITTLE)


def second_half(result: StudyResult) -> SecondHalf | None:
    """Return what the second half of the trials added; None if they are too few to judge by.

    A course whose gains shrink as those of most searches do, at least as fast as a logarithm's,
    gains no more from another doubling of its length.
    """
    draws = draw_losses(result.goals, result.trials)
    n = len(draws.trials)
    if n < MIN_TRIALS:
        return None
    if len(result.goals) == 1:
        losses = draws.losses[:, :, 0]
        found = losses[:, : n // 2].min(axis=1) - losses.min(axis=1)
    else:
        reference = Box.around(draws.estimated).reference
        found = np.array([_added(rows, n // 2, reference) for rows in draws.losses])
    low, high = np.quantile(found, (0.025, 0.975))
    return SecondHalf(float(found.mean()), float(low), float(high), len(result.goals) == 1)


def _added(losses: Floats, half: int, reference: Floats) -> float:
    whole = pareto.hypervolume(losses, reference)
    return 1 - pareto.hypervolume(losses[:half], reference) / whole if whole > 0 else 0.0


def prospect(result: StudyResult) -> str:
    """Say what twice the budget would bring; empty if there are too few trials."""
    found = second_half(result)
    if found is None:
        return ""
    if found.single:
        [goal] = result.goals
        unit = units([goal], result.trials)[goal.name]
        numbers = [unit.value(x) for x in (found.added, found.low, found.high)]
        what = (
            f"improved {goal.name} by {numbers[0]}{unit.noun} (95 %: {numbers[1]} to {numbers[2]})"
        )
    else:
        numbers = [f"{100 * x:.1f}" for x in (found.added, found.low, found.high)]
        what = f"added {numbers[0]} % of the hypervolume (95 %: {numbers[1]} to {numbers[2]})"
    if not found.is_told_apart:
        return (
            "What more budget would bring: nothing that can be told apart. The second half of the "
            f"trials {what}."
        )
    return (
        "Twice the budget would bring as much again, or less: the second half of the trials "
        f"{what}."
    )
