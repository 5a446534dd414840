"""Sums of tensors, and kernels that are just sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from automerge.methods.base import Coefficients, Operands

if TYPE_CHECKING:
    from torch import Tensor


def added(tensors: Sequence[Tensor]) -> Tensor:
    """Add tensors, in order."""
    return sum(tensors[1:], tensors[0])


def weighted_sum(vectors: Sequence[Tensor], scalars: Sequence[tuple[float, ...]]) -> Tensor:
    """Return Σ wᵢ vᵢ, added in order, with w the first of each vector's scalars."""
    (w, *_) = scalars[0]
    total = vectors[0] * w
    for vector, (w, *_) in zip(vectors[1:], scalars[1:], strict=True):
        total = total + vector * w
    return total


def source_sum(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return Σ wᵢ xᵢ / divisor."""
    (divisor,) = scalars.shared
    return weighted_sum(operands.sources, scalars.each) / divisor


def task_vector_sum(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return base + λ Σ wᵢ (xᵢ − base), with λ in the weights."""
    return operands.anchor + weighted_sum(operands.task_vectors, scalars.each)
