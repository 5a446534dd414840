"""Sources merged one after the other, each projected off what was merged before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automerge.methods.base import (
    Coefficients,
    Knob,
    Method,
    Operands,
    Statistics,
    Values,
    indicator,
    scaling,
    weight,
)
from automerge.methods.shared.core import prepare, reduced
from automerge.methods.shared.matrices import is_matrix, svd
from automerge.methods.shared.scaled import scaled_weights

if TYPE_CHECKING:
    from torch import Tensor


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return λ times the weights, and the projection threshold α."""
    return Coefficients(
        each=tuple((w,) for w in scaled_weights(values)), shared=(values.number["alpha"],)
    )


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return base + Δ n̄ / ‖Δ‖, where Δ starts as τ₁ and each next τᵢ adds `projected_off` Δ.

    The τᵢ are λ wᵢ (xᵢ − base), and n̄ is the mean of their norms. The paper scales after every
    source; that cancels, as scaling changes no singular vector. Norms are per tensor; the paper's
    are over the whole model. Vectors are added without projection; so are embeddings in the
    authors' code. Costs n − 1 SVDs per tensor and recipe: of small matrices, if the task vectors
    have low rank.
    """
    (alpha,) = scalars.shared
    core = reduced(operands, scalars)
    first, *others = (v * w for v, (w,) in zip(core.matrices, scalars.each, strict=True))
    merged, norms = first, first.norm()
    for vector in others:
        norms = norms + vector.norm()
        merged = merged + (
            projected_off(merged, vector, alpha) if is_matrix(operands.anchor) else vector
        )
    norm: Tensor = merged.norm()
    length: Tensor = norms / len(scalars.each) / (norm + 1 - indicator(norm))
    return operands.anchor + core.whole(merged * length)


def projected_off(merged: Tensor, matrix: Tensor, alpha: float) -> Tensor:
    """Return a matrix M without what it has in common with the one merged so far, U diag(σ) Vᵀ.

    Of its coordinates Uᵀ M V, the block of the leading values, which sum to at most the share α of
    all, is removed, and the diagonal of the rest, as in the authors' code in FusionBench. What is
    outside the span of U and V stays.
    """
    u, values, vt = svd(merged)
    total = values.sum(-1, keepdim=True)
    leading = indicator(total * alpha - values.cumsum(-1))
    single = indicator(values) * (1 - leading)
    removed = leading[..., :, None] * leading[..., None, :] + single.diag_embed()
    return matrix - u @ ((u.mT @ matrix @ vt.mT) * removed) @ vt


OPCM = Method(
    name="opcm",
    paper="Tang et al. 2025, Merging models on the fly without retraining, arXiv:2501.09522",
    knobs=(
        weight(),
        Knob("alpha", "recipe", "float", 0.5, 0.0, (0.0, 1.0), (0.0, 1.0)),
        scaling((0.5, 2.0)),
    ),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
    ordered=True,
    extent="tensor",
    prepare=prepare,
)
