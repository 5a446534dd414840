"""How strongly elements of task vectors compete: the scores of PCB-Merging."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from automerge.methods.shared.sums import added

if TYPE_CHECKING:
    from torch import Tensor

Limits: TypeAlias = tuple[float, float, float]
"""The least and the largest magnitude of a vector after clipping, and their difference, 1 for 0."""


def scores(vectors: Sequence[Tensor], limits: Sequence[Limits]) -> list[Tensor]:
    """Return exp(n · |τ̄|²) tanh(τ Σ τ): competition within each task times that between n tasks.

    |τ̄| are the clipped magnitudes, scaled to [0, 1] (Du et al. 2024, arXiv:2410.02396, sec. 3.2).
    """
    total = added(vectors)
    found = []
    for vector, (low, high, spread) in zip(vectors, limits, strict=True):
        scaled = (vector.abs().clamp(low, high) - low) / spread
        found.append((scaled.square() * len(vectors)).exp() * (vector * total).tanh())
    return found
