"""Task singular vectors, merged with their interference removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automerge.methods.base import Coefficients, Method, Operands, scaling, weight
from automerge.methods.shared.matrices import assemble, is_matrix, joined, mean, polar, svd
from automerge.methods.shared.scaled import coefficients

if TYPE_CHECKING:
    from torch import Tensor


def prepare(operands: Operands) -> tuple[Tensor, ...]:
    """Return U and Vᵀ of all sources side by side, each made orthogonal, and each source's values.

    Each of n sources keeps 1/n of its singular values, at least one.
    """
    if not is_matrix(operands.anchor):
        return ()
    kept = max(1, min(operands.anchor.shape[-2:]) // len(operands.sources))
    parts = [svd(vector) for vector in operands.task_vectors]
    return (
        polar(joined([u[..., :kept] for u, _, _ in parts], -1)),
        polar(joined([vt[..., :kept, :] for _, _, vt in parts], -2)),
        *(values[..., :kept] for _, values, _ in parts),
    )


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return base + U⊥ diag(wᵢ σᵢ) V⊥ᵀ, λ in the weights (the paper's α); vectors are averaged.

    Weights act on singular values only, so what is prepared does not change with them: a recipe
    costs one matrix product per tensor, and the first one n + 2 SVDs in addition.
    """
    if not is_matrix(operands.anchor):
        return operands.anchor + mean(operands.task_vectors, scalars.each)
    u, vt, *values = operands.prepared
    weighted = [v * w for v, (w,) in zip(values, scalars.each, strict=True)]
    return operands.anchor + assemble(u, joined(weighted, -1), vt)


TSV_M = Method(
    name="tsv_m",
    paper="Gargiulo et al. 2025, Task singular vectors, arXiv:2412.00081",
    knobs=(weight(), scaling()),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
    compares=True,
    extent="tensor",
    prepare=prepare,
)
