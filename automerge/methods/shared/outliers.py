"""Masking both ends of a task vector: what both Breadcrumbs methods share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from automerge.methods.base import Knob, Operands, Statistics, Values, indicator

if TYPE_CHECKING:
    from torch import Tensor

GAMMA = Knob("gamma", "source", "float", 0.01, 0.0, (0.0, 1.0), (0.0, 0.05))
"""The share of a task vector's elements, the largest ones, that is dropped."""


def bounds(values: Values, statistics: Statistics) -> tuple[tuple[float, float], ...]:
    """Return the least and the greatest magnitude that are kept, per source.

    As in mergekit: of N elements, the ⌊gamma N⌋ largest are dropped and the ⌊density N⌋ next
    largest are kept; if fewer are left, fewer outliers are dropped. With a density above 0, at
    least one element is kept. Equal magnitudes stay together.
    """
    pairs = zip(values.each["density"], values.each["gamma"], strict=True)
    return tuple(
        magnitudes(density, gamma, statistics, i) for i, (density, gamma) in enumerate(pairs)
    )


def magnitudes(density: float, gamma: float, statistics: Statistics, i: int) -> tuple[float, float]:
    """Return the least and the greatest magnitude of vector i that are kept."""
    if density <= 0:
        return math.inf, math.inf
    if density >= 1:
        return 0.0, math.inf
    count = max(1, math.floor(density * statistics.size))
    outliers = min(math.floor(gamma * statistics.size), statistics.size - count)
    greatest = statistics.magnitude(i, outliers + 1) if outliers else math.inf
    return statistics.magnitude(i, outliers + count), greatest


def masked(operands: Operands, limits: tuple[tuple[float, float], ...]) -> tuple[Tensor, ...]:
    """Return task vectors without elements below the least or above the greatest magnitude."""
    return tuple(
        vector * (1 - indicator(least - vector.abs())) * (1 - indicator(vector.abs() - greatest))
        for vector, (least, greatest) in zip(operands.task_vectors, limits, strict=True)
    )
