"""The elected, unified task vector of EMR-Merging, without its masks."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

from automerge.methods.base import Coefficients, Method, Operands, scaling, weight
from automerge.methods.shared.election import vote
from automerge.methods.shared.scaled import coefficients

if TYPE_CHECKING:
    from torch import Tensor


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return base + sign(Σ τᵢ) maxᵢ |τᵢ| over the τᵢ = wᵢ (xᵢ − base) of that sign.

    λ is in the weights. The paper masks and rescales the result for each task at inference; a
    single model does neither. A sum of exactly 0 elects +, as in `ties`; in the paper's code −.
    """
    weighted = [v * w for v, (w,) in zip(operands.task_vectors, scalars.each, strict=True)]
    sign = vote(weighted)
    agreeing = [(v * sign).relu() for v in weighted]
    return operands.anchor + reduce(lambda a, b: a.maximum(b), agreeing) * sign


EMR_UNI = Method(
    name="emr_uni",
    paper="Huang et al. 2024, EMR-Merging, arXiv:2405.17461",
    knobs=(weight(), scaling()),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
)
