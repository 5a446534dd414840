"""Weighted averages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from automerge.methods.base import (
    Coefficients,
    Method,
    Operands,
    Statistics,
    Values,
    normalize,
    weight,
)

if TYPE_CHECKING:
    from torch import Tensor


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """The weights, and what their sum is divided by; weights summing to 0 give NaN."""
    weights = values.each["weight"]
    divisor = sum(weights) if values.switch["normalize"] else 1.0
    return Coefficients(each=tuple((w,) for w in weights), shared=(divisor or math.nan,))


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Σ wᵢ xᵢ / divisor."""
    (divisor,) = scalars.shared
    return weighted_sum(operands.sources, scalars.each) / divisor


def weighted_sum(vectors: Sequence[Tensor], scalars: Sequence[tuple[float, ...]]) -> Tensor:
    """Σ wᵢ vᵢ in order, with w the first of each vector's scalars."""
    (w, *_) = scalars[0]
    total = vectors[0] * w
    for vector, (w, *_) in zip(vectors[1:], scalars[1:], strict=True):
        total = total + vector * w
    return total


LINEAR = Method(
    name="linear",
    paper="Wortsman et al. 2022, Model soups, arXiv:2203.05482",
    knobs=(weight(), normalize(True)),
    coefficients=coefficients,
    kernel=kernel,
    anchored=False,
)
