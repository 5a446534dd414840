"""The most important differences of one model from the base."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automerge.methods.base import Coefficients, Method, Operands, Statistics, Values, scaling

if TYPE_CHECKING:
    from torch import Tensor

TINY = 1e-8
"""Added to probabilities."""


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return λ."""
    return Coefficients(each=((values.number["lambda"],),))


def prepare(operands: Operands) -> tuple[Tensor, ...]:
    """Return the task vector where its importance is at least median + 1.5 interquartile range.

    Importance is |δ| times the Kullback-Leibler divergence of the row's softmax from that of the
    base's, in float64. Quantiles are exact, at the floor of their position; of larger tensors,
    mergekit samples 10⁶ elements.
    """
    (vector,), (source,) = operands.task_vectors, operands.sources
    row = source.dim() - 1 if source.dim() else 0
    p, q = (tensor.double().softmax(row) + TINY for tensor in (source, operands.anchor))
    divergence = (p * (p / q).log()).sum(dim=row, keepdim=True)
    importance = vector.abs() * divergence
    ordered = importance.reshape(-1).sort().values
    low, median, high = (ordered[(ordered.numel() - 1) * quarter // 4] for quarter in (1, 2, 3))
    return (vector * (importance >= median + 1.5 * (high - low)),)


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return base + λ times the important part of the task vector."""
    (important,), ((scale,),) = operands.prepared, scalars.each
    return operands.anchor + important * scale


ARCEE_FUSION = Method(
    name="arcee_fusion",
    paper="Arcee 2025, Arcee Fusion, arcee.ai; as in mergekit",
    knobs=(scaling(),),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
    max_sources=1,
    extent="tensor",
    prepare=prepare,
)
