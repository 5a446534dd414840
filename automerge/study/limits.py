"""When a search ends: after N trials, items or seconds, whichever comes first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of a study; None is no limit.

    `items` and `seconds` cover selection and test as well, for which the search leaves room.
    `patience` is how many proposals in a row may win nothing (see `study.patience`).
    """

    trials: int | None
    items: int | None = None
    seconds: float | None = None
    patience: int | None = None


@dataclass(frozen=True)
class Spent:
    """What a search has used: trials, items sent out, seconds, and the pace of a worker.

    `trials` and `items` are what was asked for, by price: a trial with slopes is a third of one.
    """

    trials: float
    items: int
    seconds: float
    seconds_per_item: float


def allows(
    limits: Limits, spent: Spent, next_items: int, later_items: int, workers: Callable[[], int]
) -> bool:
    """Return whether one more trial of `next_items` fits, with `later_items` to select and test on.

    `workers`, the number that share the work, is called only where the answer depends on it.
    """
    if limits.trials is not None and spent.trials >= limits.trials:
        return False
    to_come = next_items + later_items
    if limits.items is not None and spent.items + to_come > limits.items:
        return False
    if limits.seconds is None:
        return True
    left = limits.seconds - spent.seconds
    return left > 0 and to_come * spent.seconds_per_item / workers() <= left


def expected_trials(limits: Limits, spent: Spent, per_trial: int, later_items: int) -> float:
    """Return how many trials the search will have asked for at its end, at its present pace."""
    found: list[float] = [] if limits.trials is None else [limits.trials]
    if limits.items is not None and per_trial:
        left = limits.items - spent.items - later_items
        found.append(spent.trials + max(left, 0) // per_trial)
    if limits.seconds is not None and spent.trials and spent.seconds > 0:
        found.append(round(spent.trials * max(limits.seconds / spent.seconds, 1.0)))
    return max(min(found, default=spent.trials), spent.trials)
