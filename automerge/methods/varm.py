"""Weights by how far each source moved a tensor (VaRM)."""

from __future__ import annotations

from automerge.methods.base import Coefficients, Method, Statistics, Values, scaling, weight
from automerge.methods.shared.scaled import shares
from automerge.methods.shared.sums import task_vector_sum


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return λ wᵢ ‖τᵢ‖² / Σ |wₖ| ‖τₖ‖², per tensor; FuseChat's equation has equal weights.

    FuseChat's mean of squares is ‖τ‖² over the tensor's size, which cancels.
    """
    weights = values.each["weight"]
    squares = [statistics.inner(i, i) for i in range(len(weights))]
    return Coefficients(each=shares(weights, squares, values.number["lambda"]))


VARM = Method(
    name="varm",
    paper="Wan et al. 2024, FuseChat, arXiv:2402.16107",
    knobs=(weight(), scaling((0.5, 2.0))),
    coefficients=coefficients,
    kernel=task_vector_sum,
    anchored=True,
    statistics=("gram",),
)
