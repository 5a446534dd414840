"""Task vectors preconditioned by curvature, so that gradients of merge and sources match."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automerge.methods.base import (
    Coefficients,
    Knob,
    Method,
    Operands,
    Statistics,
    Values,
    scaling,
    weight,
)
from automerge.methods.shared.importance import floored, known
from automerge.methods.shared.sums import added, weighted_sum

if TYPE_CHECKING:
    from torch import Tensor

OWN, BASE = "squared_gradient", "base_squared_gradient"
FLOOR = Knob("floor", "recipe", "float", 1e-6, None, (1e-9, 1.0))
"""The least curvature of the base, as a share of a tensor's mean."""


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return the weights, and λ and the floor."""
    del statistics
    shares = tuple((w,) for w in values.each["weight"])
    return Coefficients(each=shares, shared=(values.number["lambda"], values.number["floor"]))


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return θ₀ + λ Σ αᵢ (H₀ + Hᵢ) / (H₀ + Σ αₖ Hₖ) τᵢ (Daheim et al. 2024, eq. 12).

    H are diagonals of the Fisher information: Hᵢ of a source, H₀ of the base, averaged over the
    sources' texts. λ is ours; 1 is the paper. Tensors without evidence get Σ αᵢ τᵢ.
    """
    scale, floor = scalars.shared
    own = known(operands, OWN)
    bases = known(operands, BASE)
    vectors = operands.task_vectors
    if not own or not bases or not any(bool(b.any()) for b in bases):
        return operands.anchor + weighted_sum(vectors, scalars.each) * scale
    prior = floored(added(bases) / len(bases), floor)
    curvature = prior + weighted_sum(own, scalars.each)
    moved = [v * (prior + h) for v, h in zip(vectors, own, strict=True)]
    return operands.anchor + weighted_sum(moved, scalars.each) / curvature * scale


UBGM = Method(
    name="ubgm",
    paper="Daheim et al. 2024, Model merging by uncertainty-based gradient matching, "
    "arXiv:2310.12808",
    knobs=(weight(), scaling((0.5, 2.0)), FLOOR),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
    extent="tensor",
    needs=(OWN, BASE),
)
