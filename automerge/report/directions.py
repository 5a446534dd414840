"""What each direction of descent bought: what its proposals gained in their own trade-off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from automerge.arrays import Floats
from automerge.report.draws import Draws, draw_losses
from automerge.store.result import StudyResult, TrialResult
from automerge.trial import BASELINES, Measured

ALIKE, MIXTURES = "all goals alike", "mixtures of goals"


@dataclass(frozen=True)
class Bought:
    """Proposals for one kind of trade-off between the goals, and what they gained.

    A gain is how much lower the weighted mean of the losses is than that of the best of all that
    was measured before the sampler was asked: base, sources, averages and usual merges. Its 95 %
    interval is over what the losses may truly be (`report.draws`).
    """

    name: str
    trials: int
    tokens: int
    front: int
    gain: float
    low: float
    high: float


def directions(result: StudyResult, points: bool) -> tuple[Bought, ...]:
    """Return what each direction bought, in the order in which they were first tried.

    Args:
        result: the study.
        points: whether losses have a common unit, which gains are then in; else each counts in
            ranges of the losses of base, sources and uniform average.
    """
    draws = draw_losses(result.goals, result.trials)
    begun = [i for i, t in enumerate(draws.trials) if t.trial.origin != "sampler"]
    grouped: dict[str, list[int]] = {}
    for i, trial in enumerate(draws.trials):
        if trial.trial.direction:
            grouped.setdefault(_name(trial.trial.direction, result), []).append(i)
    if not begun or not grouped:
        return ()
    ranges = np.ones(len(result.goals)) if points else _ranges(draws)
    return tuple(
        _bought(name, [draws.trials[i] for i in own], _gains(draws, begun, own, ranges), result)
        for name, own in grouped.items()
    )


def _bought(name: str, trials: Sequence[TrialResult], gains: Floats, result: StudyResult) -> Bought:
    low, high = np.quantile(gains, (0.025, 0.975))
    outcomes = [t.outcomes.get("search") for t in trials]
    return Bought(
        name,
        len(trials),
        sum(own.tokens for own in outcomes if isinstance(own, Measured)),
        sum(t.trial.number in result.front for t in trials),
        float(gains.mean()),
        float(low),
        float(high),
    )


def _gains(draws: Draws, begun: Sequence[int], own: Sequence[int], ranges: Floats) -> Floats:
    """Return the largest gain of any proposal in its own trade-off, (draws,)."""
    found = []
    for i in own:
        weights = np.array(draws.trials[i].trial.direction) / ranges
        mixed = draws.losses @ weights
        found.append(mixed[:, begun].min(axis=1) - mixed[:, i])
    return np.asarray(np.max(found, axis=0))


def _ranges(draws: Draws) -> Floats:
    rows = draws.estimated[[t.trial.origin in BASELINES for t in draws.trials]]
    spread = np.ptp(rows, axis=0) if len(rows) else np.ones(draws.estimated.shape[1])
    return np.where(spread > 0, spread, 1.0)


def _name(direction: Sequence[float], result: StudyResult) -> str:
    """Name a trade-off: all goals alike, one before the others, or any other mixture."""
    weights = np.array(direction)
    if np.ptp(weights) < 1e-9:
        return ALIKE
    first = int(weights.argmax())
    if np.ptp(np.delete(weights, first)) < 1e-9:
        return f"towards {result.goals[first].name}"
    return MIXTURES
