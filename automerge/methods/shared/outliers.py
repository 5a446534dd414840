"""Masking both ends of a task vector: the part that both Breadcrumbs methods share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from automerge.methods.base import Knob, Operands, Statistics, Values, indicator

if TYPE_CHECKING:
    from torch import Tensor

GAMMA = Knob("gamma", "source", "float", 0.01, 0.0, (0.0, 1.0), (0.0, 0.05))
"""The share of a task vector, its largest elements, that is dropped."""


def bounds(values: Values, statistics: Statistics) -> tuple[tuple[float, float], ...]:
    """The least and the greatest magnitude that are kept, a source.

    As in mergekit: of N elements, the ⌊gamma N⌋ largest are dropped, and ⌊density N⌋ of the
    largest others are kept; where so many are not left, fewer outliers are dropped. At least one
    element is kept of a density above 0. Equal magnitudes stay together.
    """
    pairs = zip(values.each["density"], values.each["gamma"], strict=True)
    return tuple(
        magnitudes(density, gamma, statistics, i) for i, (density, gamma) in enumerate(pairs)
    )


def magnitudes(density: float, gamma: float, statistics: Statistics, i: int) -> tuple[float, float]:
    """The least and the greatest magnitude of vector i that are kept."""
    if density <= 0:
        return math.inf, math.inf
    if density >= 1:
        return 0.0, math.inf
    count = max(1, math.floor(density * statistics.size))
    outliers = min(math.floor(gamma * statistics.size), statistics.size - count)
    greatest = statistics.magnitude(i, outliers + 1) if outliers else math.inf
    return statistics.magnitude(i, outliers + count), greatest


def masked(operands: Operands, limits: tuple[tuple[float, float], ...]) -> tuple[Tensor, ...]:
    """Task vectors without the elements below the least and above the greatest magnitude."""
    return tuple(
        vector * (1 - indicator(least - vector.abs())) * (1 - indicator(vector.abs() - greatest))
        for vector, (least, greatest) in zip(operands.task_vectors, limits, strict=True)
    )
