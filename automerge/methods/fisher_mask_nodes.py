"""Fisher mask nodes: heads and units are averaged by how sure each source is of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automerge.methods.base import Coefficients, Method, Operands, Statistics, Values, weight
from automerge.methods.shared.importance import known, weighted_average
from automerge.methods.shared.sums import weighted_sum

if TYPE_CHECKING:
    from torch import Tensor

NEEDED = "squared_mask_gradient"


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return the weights."""
    del statistics
    return Coefficients(each=tuple((w,) for w in values.each["weight"]))


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return Σ wᵢ Fᵢ θᵢ / Σ wᵢ Fᵢ, F being the Fisher information of masks (Thennal et al. 2024).

    F is a number per row or column, or one for the tensor, as the evidence has it. Tensors without
    evidence, and what no source is sure of, are averaged.
    """
    shares = [w for (w,) in scalars.each]
    importances = known(operands, NEEDED)
    if not importances:
        return weighted_sum(operands.sources, scalars.each) / sum(shares)
    weights = [f * w for f, w in zip(importances, shares, strict=True)]
    return weighted_average(operands.sources, weights, shares)


FISHER_MASK_NODES = Method(
    name="fisher_mask_nodes",
    paper="Thennal et al. 2024, Fisher mask nodes for language model merging, arXiv:2403.09891",
    knobs=(weight(),),
    coefficients=coefficients,
    kernel=kernel,
    anchored=False,
    extent="tensor",
    needs=(NEEDED,),
)
