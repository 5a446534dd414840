"""Task vectors in the basis that they share, as in KnOTS (Stoica et al. 2024, arXiv:2410.19735)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from automerge.methods.base import Coefficients, Operands, indicator
from automerge.methods.shared.election import agreed, vote
from automerge.methods.shared.matrices import is_matrix, joined, svd
from automerge.methods.shared.rounding import rounding

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Aligned:
    """Each source's coordinates, and the basis that they are in; None for vectors as they are.

    `size` is the number of elements that are not 0 by construction.
    """

    basis: Tensor | None
    parts: Sequence[Tensor]
    size: int


def prepare(operands: Operands) -> tuple[Tensor, ...]:
    """Return U of [Δ₁ | … | Δₙ] = U Σ [V₁ | … | Vₙ]ᵀ, its rank, and Σ Vᵢᵀ = Uᵀ Δᵢ of each source.

    For stacks of matrices, the rank is the sum of theirs. Decomposed in float64, as by the authors:
    what is trimmed depends on the basis, whose vectors are as exact as values differ. Where the
    authors drop singular values below 1e-5, those are dropped that rounding the sources may make.
    """
    if not is_matrix(operands.anchor):
        return ()
    anchor = operands.anchor
    vectors = [vector.double() for vector in operands.task_vectors]
    together = joined(vectors, -1)
    u, values, _ = svd(together)
    alive = indicator(values - rounding(anchor) * sum(n**0.5 for n in together.shape[-2:]))
    u = u * alive[..., None, :]
    parts = (u, *(u.mT @ vector for vector in vectors))
    basis, *rest = (part.to(anchor.dtype) for part in parts)
    return (basis, (alive > 0).sum(), *rest)


def aligned(operands: Operands) -> Aligned:
    """Return what was prepared; tensors that are no matrices are not aligned."""
    if not is_matrix(operands.anchor):
        return Aligned(None, operands.task_vectors, operands.anchor.numel())
    u, rank, *parts = operands.prepared
    return Aligned(u, parts, int(rank) * parts[0].shape[-1])


def elected(
    operands: Operands, basis: Tensor | None, weighted: Sequence[Tensor], scalars: Coefficients
) -> Tensor:
    """Return base + λ U times what is elected of weighted parts, with coefficients of `ballot`."""
    (scale,), (normalized,) = scalars.shared, scalars.switches
    weights = [w for w, *_ in scalars.each]
    merged = agreed(weighted, weights, vote(weighted), normalized) * scale
    return operands.anchor + (merged if basis is None else basis @ merged)
