"""Breadcrumbs: both ends of a task vector, the smallest and the largest elements, are masked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from automerge.methods.base import Knob, Operands, Statistics, Values, density, indicator
from automerge.methods.transforms.base import Scalars, Transform

if TYPE_CHECKING:
    from torch import Tensor

GAMMA = Knob("gamma", "source", "float", 0.01, 0.0, (0.0, 1.0), (0.0, 0.05))
"""The share of a task vector's elements, the largest ones, that is dropped."""


def coefficients(
    values: Values, statistics: Statistics, weights: Sequence[float], factors: Sequence[float]
) -> Scalars:
    """Return the factor, the least and the greatest magnitude that are kept, per source.

    As in mergekit: of N elements, the ⌊gamma N⌋ largest are dropped and the ⌊density N⌋ next
    largest are kept; if fewer are left, fewer outliers are dropped. With a density above 0, at
    least one element is kept. Equal magnitudes stay together.
    """
    triples = zip(factors, values.each["density"], values.each["gamma"], strict=True)
    return tuple(
        (factor, *magnitudes(density, gamma, statistics, i))
        for i, (factor, density, gamma) in enumerate(triples)
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


def kernel(operands: Operands, scalars: Scalars) -> tuple[Tensor, ...]:
    """Return task vectors times a factor, with magnitudes from the least to the greatest only."""
    return tuple(
        vector
        * (1 - indicator(least - vector.abs()))
        * (1 - indicator(vector.abs() - greatest))
        * factor
        for vector, (factor, least, greatest) in zip(operands.task_vectors, scalars, strict=True)
    )


BREADCRUMBS = Transform(
    name="breadcrumbs",
    paper="Davari & Belilovsky 2024, Model Breadcrumbs, arXiv:2312.06795",
    knobs=(density(), GAMMA),
    coefficients=coefficients,
    kernel=kernel,
    statistics=("magnitude",),
)
