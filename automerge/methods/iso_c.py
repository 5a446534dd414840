"""Isotropic merging in the common subspace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automerge.methods.base import Coefficients, Method, Operands, scaling, weight
from automerge.methods.shared.core import prepare, reduced
from automerge.methods.shared.matrices import is_matrix, isotropic, mean, svd
from automerge.methods.shared.scaled import coefficients
from automerge.methods.shared.sums import weighted_sum

if TYPE_CHECKING:
    from torch import Tensor


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return base + σ̄ U Vᵀ, with U diag(σ) Vᵀ = λ Σ wᵢ (xᵢ − base) and σ̄ the mean of σ.

    λ is the paper's α. Singular values that are 0 to working precision stay 0 and are not part of
    the mean; in the authors' code all count, so directions that no source changed grow to it.
    Vectors are averaged. Costs one SVD per tensor and recipe, as the weights change it: of a small
    matrix, if the task vectors have low rank.
    """
    if is_matrix(operands.anchor):
        core = reduced(operands, scalars)
        merged = core.whole(isotropic(*svd(weighted_sum(core.matrices, scalars.each))))
    else:
        merged = mean(operands.task_vectors, scalars.each)
    return operands.anchor + merged


ISO_C = Method(
    name="iso_c",
    paper="Marczak et al. 2025, No task left behind, arXiv:2502.04959",
    knobs=(weight(), scaling((0.5, 2.0))),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
    extent="tensor",
    prepare=prepare,
)
