"""How a search stands: the best mean of a merge against the best of those that went in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from automerge.estimation.intervals import MEANS
from automerge.objective import Objective

Row: TypeAlias = tuple[str, Sequence[float]]
"""A model's name and values, in the order of the objectives."""


def standing(objectives: Sequence[Objective], merges: Iterable[Row], parents: Iterable[Row]) -> str:
    """Compare the best mean over the goals with the best parent's, in a line.

    Empty if no merge or no parent is measured, or the goals have no common unit: only shares that
    are to be as high as possible are averaged. Both are the best of several by the scores given, so
    the merge's is optimistic, the more so the more merges there were.
    """
    best, rival = best_mean(objectives, merges), best_mean(objectives, parents)
    if best is None or rival is None:
        return ""
    gain = f"{100 * (best[0] - rival[0]):+.1f}".replace("-", "−")
    return (
        f"best mean {100 * best[0]:.1f} % ({best[1]}), best parent {100 * rival[0]:.1f} % "
        f"({rival[1]}): {gain} points"
    )


def order(
    objectives: Sequence[Objective], rows: Sequence[tuple[str, Sequence[float]]]
) -> list[int]:
    """Return the rows' places by their mean rank over the goals, the best first."""
    ranks = [0.0] * len(rows)
    for k, o in enumerate(objectives):
        if not o.goal:
            continue
        losses = [o.loss(values[k]) for _, values in rows]
        for place, loss in enumerate(losses):
            ranks[place] += sum(other < loss for other in losses)
    return sorted(range(len(rows)), key=lambda place: ranks[place])


def shown(value: float) -> str:
    """Format a value of any unit in a few characters: 0.743, 8.512, 477,040."""
    if not math.isfinite(value):
        return "?"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}"


def best_mean(objectives: Sequence[Objective], rows: Iterable[Row]) -> tuple[float, str] | None:
    """Return the best mean over the goals, and whose it is; None without rows or a common unit."""
    goals = [k for k, o in enumerate(objectives) if o.goal]
    shares = all(
        objectives[k].aggregation in MEANS and objectives[k].direction == "maximize" for k in goals
    )
    means = [(math.fsum(values[k] for k in goals) / len(goals), name) for name, values in rows]
    if not shares or not means or not all(0 <= mean <= 1 for mean, _ in means):
        return None
    return max(means)
