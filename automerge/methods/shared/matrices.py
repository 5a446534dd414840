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
    """Return whether a tensor has singular values: a matrix, or a stack of them."""
    return tensor.ndim in (2, 3)


def mean(vectors: Sequence[Tensor], scalars: Sequence[tuple[float, ...]]) -> Tensor:
    """Return Σ wᵢ vᵢ / n: what the papers do with tensors that are not matrices."""
    return weighted_sum(vectors, scalars) / len(vectors)


def svd(matrix: Tensor, size: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return U, the singular values in descending order, and Vᵀ, thin.

    Values below ε √n of the largest, n the longer side, but at least 8 ε, are rounding errors
    (about 4 ε for products of thin matrices, whatever n): they and their vectors, which are
    arbitrary, are set to 0. Give `size` instead of the largest value for a matrix that may be
    nothing but the rounding errors of larger ones. Everything is NaN where an element is not
    finite: LAPACK refuses those.
    """
    import torch

    poison = (matrix * 0).sum()  # 0, or NaN
    finite = matrix.nan_to_num(0.0, 0.0, 0.0)
    if _is_long(matrix):
        u, values, vt = _svd_by_gram(finite)
    else:
        u, values, vt = torch.linalg.svd(finite, full_matrices=False)
    precision = torch.finfo(matrix.dtype).eps * max(64, *matrix.shape[-2:]) ** 0.5
    alive = indicator(values - (values[..., :1] if size is None else size) * precision)
    return u * alive[..., None, :] + poison, values * alive + poison, vt * alive[..., None] + poison


def _is_long(matrix: Tensor) -> bool:
    """Return whether one side is so much longer that a Gram matrix costs less than an SVD.

    Its derivative would be another, and in float64, it would lose half of the digits.
    """
    import torch

    short, long = sorted(matrix.shape[-2:])
    return matrix.dtype == torch.float32 and not matrix.requires_grad and 2 * short <= long


def _svd_by_gram(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Do as torch's SVD with a long matrix, in a third of the time.

    Values, which are lengths of rows of Uᵀ M, are in order but for rounding errors.
    """
    import torch

    wide = matrix if is_wide(matrix) else matrix.mT
    near = gram(wide)[0]
    far = near.mT @ wide.double()
    values = torch.linalg.vector_norm(far, dim=-1)
    far = far / values.clamp(min=torch.finfo(far.dtype).tiny)[..., None]
    near, values, far = (part.to(matrix.dtype) for part in (near, values, far))
    return (near, values, far) if wide is matrix else (far.mT, values, near.mT)


def gram(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the left singular vectors and the singular values, descending, from M Mᵀ in float64.

    Values are wrong by about 1e-8 of the largest.
    """
    import torch

    double = matrix.double()
    squares, vectors = torch.linalg.eigh(double @ double.mT)
    return vectors.flip(-1), squares.flip(-1).clamp(min=0).sqrt()


def assemble(u: Tensor, values: Tensor, vt: Tensor) -> Tensor:
    """Return U diag(values) Vᵀ."""
    return (u * values[..., None, :]) @ vt


def polar(matrix: Tensor) -> Tensor:
    """Return the nearest matrix with orthonormal columns (rows, if it is wide): U Vᵀ of its SVD.

    Its null space stays null.
    """
    u, _, vt = svd(matrix)
    return u @ vt


def isotropic(u: Tensor, values: Tensor, vt: Tensor) -> Tensor:
    """Return U Vᵀ times the mean of the values that are not 0."""
    count = indicator(values).sum(-1, keepdim=True).clamp(min=1)
    return assemble(u, values.sum(-1, keepdim=True) / count, vt)


def stacked(parts: Sequence[Tensor]) -> Tensor:
    """Stack tensors along a new first dimension."""
    import torch

    return torch.stack(list(parts))


def joined(parts: Sequence[Tensor], dim: int) -> Tensor:
    """Put tensors side by side."""
    import torch

    return torch.cat(list(parts), dim)


def directions(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the singular vectors of the shorter side, as columns, and the singular values."""
    u, values, vt = svd(matrix)
    return (u if is_wide(matrix) else vt.mT.contiguous()), values


def projected(matrix: Tensor, basis: Tensor, factors: Tensor | float = 1.0) -> Tensor:
    """Return Σₖ fₖ σₖ uₖ vₖᵀ over columns of `directions`, as a projection of the matrix itself.

    There is one factor for all columns, or one per column.
    """
    scaled = basis * factors
    if is_wide(matrix):
        return scaled @ (basis.mT @ matrix)
    return (matrix @ basis) @ scaled.mT


def is_wide(matrix: Tensor) -> bool:
    """Return whether a matrix has fewer rows than columns."""
    return matrix.shape[-2] < matrix.shape[-1]
