"""Task vectors of low rank as small matrices between two bases that they share.

Adapters of rank r change an (m, n) matrix by matrices whose rows and columns lie in few dimensions.
What a method does to singular values, it does as well to coordinates there, at the cost of matrices
with as many rows as all ranks together. Rounding a source to the precision it is stored in adds a
matrix of full rank, which methods that make all singular values alike would raise to the size of
the others; it is left out with the other dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from automerge.methods.base import Coefficients, Operands, indicator
from automerge.methods.shared.matrices import gram, is_matrix, is_wide, joined
from automerge.methods.shared.rounding import rounding

if TYPE_CHECKING:
    from torch import Tensor

SHARE = 4
"""All ranks together are at most this part of a matrix's shorter side: more would save little."""

MORE = 8
"""Dimensions in which low rank is looked for, beside as many as it may have."""

FLOOR = 1e-7
"""How wrong singular values from a Gram matrix in float64 may be, relative to the largest."""


@dataclass(frozen=True, eq=False)
class Core:
    """Task vectors Δᵢ = U Cᵢ Vᵀ by their coordinates Cᵢ; as they are where there are no bases."""

    matrices: Sequence[Tensor]
    left: Tensor | None = None
    right: Tensor | None = None

    def whole(self, merged: Tensor) -> Tensor:
        """Return what was merged from coordinates as a task vector."""
        if self.left is None or self.right is None:
            return merged
        return self.left @ merged @ self.right


def prepare(operands: Operands) -> tuple[Tensor, ...]:
    """Return U, Vᵀ, and Cᵢ = Uᵀ Δᵢ V of every source, without elements where Δᵢ has a high rank.

    Nothing is returned where all have, or are 0. Each source's rank is its own: that of another,
    which a recipe may leave out, does not matter.
    """
    import torch

    anchor = operands.anchor
    if not is_matrix(anchor):
        return ()
    turned = not is_wide(anchor)
    most = min(anchor.shape[-2:]) // SHARE // len(operands.task_vectors)
    error = rounding(anchor)
    bases, rows = {}, {}
    for i, vector in enumerate(operands.task_vectors):
        double = vector.double().mT if turned else vector.double()
        if (basis := _basis(double, error, most)) is not None:
            bases[i], rows[i] = basis, basis.mT @ double
    if all(basis.shape[-1] == 0 for basis in bases.values()):
        return ()
    near = torch.linalg.qr(joined([*bases.values()], -1)).Q
    far = torch.linalg.qr(joined([*rows.values()], -2).mT).Q
    found = {i: (near.mT @ basis) @ (rows[i] @ far) for i, basis in bases.items()}
    cores = [found.get(i, near[..., :0, :0]) for i in range(len(operands.task_vectors))]
    parts = [near, far.mT, *cores]
    if turned:
        parts = [far, near.mT, *(core.mT for core in cores)]
    return tuple(part.to(anchor.dtype).contiguous() for part in parts)


def reduced(operands: Operands, scalars: Coefficients) -> Core:
    """Return the task vectors, by their coordinates where all that have a weight have any."""
    if operands.prepared:
        left, right, *cores = operands.prepared
        weights = [w for w, *_ in scalars.each]
        if all(core.numel() or w == 0 for core, w in zip(cores, weights, strict=True)):
            zeros = left.new_zeros((*left.shape[:-2], left.shape[-1], right.shape[-2]))
            return Core([core if core.numel() else zeros for core in cores], left, right)
    return Core(operands.task_vectors)


def _basis(matrix: Tensor, error: Tensor, most: int) -> Tensor | None:
    """Return the left singular vectors whose values are no rounding error; None for too many.

    Found in a random subspace of a few more dimensions (Halko et al. 2011, arXiv:0909.4061,
    algorithm 4.1), which must hold all of the matrix but rounding errors. In a stack, some vectors
    are 0 where another matrix has more.

    Args:
        matrix: wide, in float64.
        error: of each element.
        most: how many vectors there may be.
    """
    import torch

    if matrix.is_meta:  # what may be needed
        return matrix.new_empty((*matrix.shape[:-1], most))
    rows, columns = matrix.shape[-2:]
    if most + MORE >= rows or not matrix.isfinite().all():
        return None
    noise = torch.Generator().manual_seed(0)
    drawn = torch.randn(columns, most + MORE, generator=noise, dtype=matrix.dtype)
    space = torch.linalg.qr(matrix @ drawn.to(matrix.device)).Q
    inside = space.mT @ matrix
    found, values = gram(inside)
    floor = FLOOR * values.max()
    outside = (matrix - space @ inside).norm(dim=(-2, -1))
    if (outside > (2 * error * (rows * columns) ** 0.5).clamp(min=floor)).any():
        return None
    alive = indicator(values - (error * (rows**0.5 + columns**0.5)).clamp(min=floor))
    count = int(alive.sum(-1).max())
    return None if count > most else (space @ found[..., :count]) * alive[..., None, :count]
