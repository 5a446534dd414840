"""Weights by how far each source moved the whole model."""

from __future__ import annotations

from automerge.methods.base import Coefficients, Method, Statistics, Values, scaling, weight
from automerge.methods.shared.scaled import shares
from automerge.methods.shared.sums import task_vector_sum


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return λ wᵢ ‖τᵢ‖² / Σ |wₖ| ‖τₖ‖², norms over all tensors; the paper has equal weights."""
    weights = values.each["weight"]
    squares = [statistics.model_inner(i, i) for i in range(len(weights))]
    return Coefficients(each=shares(weights, squares, values.number["lambda"]))


METAGPT = Method(
    name="metagpt",
    paper="Zhou et al. 2024, MetaGPT, arXiv:2406.11385",
    knobs=(weight(), scaling((0.5, 2.0))),
    coefficients=coefficients,
    kernel=task_vector_sum,
    anchored=True,
    statistics=("model_gram",),
)
