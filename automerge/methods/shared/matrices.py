"""Tensors as matrices: what the methods that look at singular values share.

Tensors of two dimensions are matrices, those of three are stacks of them (experts); all others are
treated as vectors. Everything is computed in the precision of its input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from automerge.methods.base import indicator
from automerge.methods.shared.sums import weighted_sum

if TYPE_CHECKING:
    from torch import Tensor


def is_matrix(tensor: Tensor) -> bool:
    """Whether a tensor has singular values: a matrix, or a stack of them."""
    return tensor.ndim in (2, 3)


def mean(vectors: Sequence[Tensor], scalars: Sequence[tuple[float, ...]]) -> Tensor:
    """Σ wᵢ vᵢ / n: what the papers do with tensors that are no matrices."""
    return weighted_sum(vectors, scalars) / len(vectors)


def svd(matrix: Tensor, size: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """U, the singular values in falling order, and Vᵀ, thin.

    Values below ε √n of the largest, n the longer side, are rounding errors (some 4 ε for products
    of thin matrices, whatever n): they are set to 0, and their vectors, which are arbitrary, too.
    `size` is to be given instead of the largest value for a matrix that may be nothing but the
    rounding errors of larger ones. All is NaN where an element is not finite: LAPACK refuses those.
    """
    import torch

    poison = (matrix * 0).sum()  # 0, or NaN
    u, values, vt = torch.linalg.svd(matrix.nan_to_num(0.0, 0.0, 0.0), full_matrices=False)
    precision = torch.finfo(matrix.dtype).eps * max(matrix.shape[-2:]) ** 0.5
    alive = indicator(values - (values[..., :1] if size is None else size) * precision)
    return u * alive[..., None, :] + poison, values * alive + poison, vt * alive[..., None] + poison


def assemble(u: Tensor, values: Tensor, vt: Tensor) -> Tensor:
    """U diag(values) Vᵀ."""
    return (u * values[..., None, :]) @ vt


def polar(matrix: Tensor) -> Tensor:
    """The nearest matrix with orthonormal columns (rows, of a wide one): U Vᵀ of its SVD.

    Its null space stays null.
    """
    u, _, vt = svd(matrix)
    return u @ vt


def isotropic(u: Tensor, values: Tensor, vt: Tensor) -> Tensor:
    """U Vᵀ times the mean of the values that are not 0."""
    count = indicator(values).sum(-1, keepdim=True).clamp(min=1)
    return assemble(u, values.sum(-1, keepdim=True) / count, vt)


def stacked(parts: Sequence[Tensor]) -> Tensor:
    """Tensors along a new first dimension."""
    import torch

    return torch.stack(list(parts))


def joined(parts: Sequence[Tensor], dim: int) -> Tensor:
    """Tensors side by side."""
    import torch

    return torch.cat(list(parts), dim)


def directions(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The singular vectors of the shorter side, as columns, and the singular values."""
    u, values, vt = svd(matrix)
    return (u if is_wide(matrix) else vt.mT.contiguous()), values


def projected(matrix: Tensor, basis: Tensor, factors: Tensor | float = 1.0) -> Tensor:
    """Σₖ fₖ σₖ uₖ vₖᵀ over columns of `directions`, found as a projection of the matrix itself.

    The factors are numbers, or one a column.
    """
    scaled = basis * factors
    if is_wide(matrix):
        return scaled @ (basis.mT @ matrix)
    return (matrix @ basis) @ scaled.mT


def is_wide(matrix: Tensor) -> bool:
    """Whether a matrix has fewer rows than columns."""
    return matrix.shape[-2] < matrix.shape[-1]
