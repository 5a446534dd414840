"""Which numbers of recipes mattered, by the slopes that were measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from automerge.estimation.intervals import student_interval
from automerge.objective import standard_error
from automerge.recipe import Coordinate
from automerge.store.result import StudyResult
from automerge.trial import Measured

MIN_TRIALS = 4
"""Fewer say nothing about a mean."""

Key: TypeAlias = tuple[str, str, str]
"""Source, empty for a knob of the recipe itself; knob; selector."""


@dataclass(frozen=True)
class Importance:
    """How much a knob's numbers changed the loss.

    `effect` is the mean over `trials` with slopes, `low` and `high` its 95 % interval: the share of
    the loss by which it changes, to first order, if each of the knob's numbers moves by as much as
    it varied between the trials (one standard deviation), summed over depth without sign. Losses
    are the smooth ones behind the goals.
    """

    source: str
    knob: str
    selector: str
    effect: float
    low: float
    high: float
    trials: int


def importance(result: StudyResult) -> tuple[Importance, ...]:
    """Return the knobs that have slopes, the surest first: by the lower end of the interval."""
    spreads = _spreads(result)
    effects: dict[Key, list[float]] = {}
    for trial in result.trials:
        outcome = trial.outcomes.get("search")
        slopes = list(outcome.slopes.values()) if isinstance(outcome, Measured) else []
        rows = [
            _effects({c: abs(s) * spreads.get(c, 0.0) / slope.loss for c, s in slope.by.items()})
            for slope in slopes
            if slope.loss > 0 and all(map(math.isfinite, slope.by.values()))
        ]
        for key in dict.fromkeys(key for row in rows for key in row):
            found = [row[key] for row in rows if key in row]
            effects.setdefault(key, []).append(math.fsum(found) / len(found))
    known = [_importance(key, own) for key, own in effects.items() if len(own) >= MIN_TRIALS]
    return tuple(sorted((row for row in known if row.effect > 0), key=lambda row: -row.low))


def _importance(key: Key, effects: Sequence[float]) -> Importance:
    values = np.array(effects)
    low, high = student_interval(float(values.mean()), standard_error(values), len(values))
    return Importance(*key, float(values.mean()), max(low, 0.0), high, len(values))


def _effects(each: Mapping[Coordinate, float]) -> dict[Key, float]:
    found: dict[Key, float] = {}
    for c, effect in each.items():
        key = (c.source or "", c.knob, c.selector)
        found[key] = found.get(key, 0.0) + effect
    return found


def _spreads(result: StudyResult) -> dict[Coordinate, float]:
    """Return the standard deviation of each number over the trials that have slopes."""
    values: dict[Coordinate, list[float]] = {}
    for trial in result.trials:
        outcome = trial.outcomes.get("search")
        if isinstance(outcome, Measured) and outcome.slopes:
            for c, number in trial.trial.recipe.numbers.items():
                values.setdefault(c, []).append(number)
    return {c: float(np.std(own, ddof=1)) for c, own in values.items() if len(own) > 1}
