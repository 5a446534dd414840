"""Weight disentanglement: columns that moved far count more."""

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
from automerge.methods.matrices import is_matrix, stacked
from automerge.methods.scaled import scaled_weights
from automerge.methods.ties import added

if TYPE_CHECKING:
    from torch import Tensor


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """λ times the weights, and the paper's t and s."""
    return Coefficients(
        each=tuple((w,) for w in scaled_weights(values)),
        shared=(values.number["above_average"], values.number["calibration"]),
    )


def prepare(operands: Operands) -> tuple[Tensor, ...]:
    """Ranks a source: of a matrix's columns by magnitude and by direction; else of elements."""
    base = operands.anchor
    if not is_matrix(base):
        return (stacked([ranks(v.abs().reshape(-1)) for v in operands.task_vectors]),)
    length, direction = disentangled(base)
    sources = [disentangled(source) for source in operands.sources]
    return (
        stacked([ranks((lengths - length).abs()) for lengths, _ in sources]),
        stacked([ranks((d - direction).square().sum(-2) / 2) for _, d in sources]),
    )


def disentangled(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The norms of columns, and the columns of norm 1 (0 where the norm is)."""
    lengths = matrix.norm(dim=-2)
    return lengths, matrix / (lengths + 1 - indicator(lengths))[..., None, :]


def ranks(divergences: Tensor) -> Tensor:
    """0 for the least along the last dimension, 1 for the next, in element order where equal."""
    return divergences.argsort(dim=-1, stable=True).argsort(dim=-1).to(divergences.dtype)


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """base + Σ λ wᵢ sᵢ (xᵢ − base), with one score s a column.

    A score is the softmax over the sources of ranks in [0, 1), or the calibration where a rank is
    above `above_average` times the mean rank; a matrix's are the mean of those by magnitude and by
    direction. Columns belong to inputs. The paper takes the rows of token embeddings instead,
    which a kernel cannot tell from other matrices.
    """
    above_average, calibration = scalars.shared
    kinds = [scores(ranked, above_average, calibration) for ranked in operands.prepared]
    score = added(kinds) / len(kinds)
    shape = tuple(operands.anchor.shape)
    if is_matrix(operands.anchor):
        shape = (*shape[:-2], 1, shape[-1])
    vectors = zip(operands.task_vectors, score, scalars.each, strict=True)
    return operands.anchor + added([v * s.reshape(shape) * w for v, s, (w,) in vectors])


def scores(ranked: Tensor, above_average: float, calibration: float) -> Tensor:
    """The importance of each column (last dimension) of each source (first dimension)."""
    n = ranked.shape[-1]
    high = indicator(ranked - above_average * (n - 1) / 2)
    return (ranked / n).softmax(0) * (1 - high) + high * calibration


WIDEN = Method(
    name="widen",
    paper="Yu et al. 2024, Extend model merging from fine-tuned to pre-trained, arXiv:2408.03092",
    knobs=(
        weight(),
        Knob("above_average", "recipe", "float", 1.0, 2.0, (0.0, 2.0), (0.5, 2.0)),
        Knob("calibration", "recipe", "float", 1.0, 1.0, (0.0, 10.0), (0.5, 1.5)),
        scaling(),
    ),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
    extent="tensor",
    prepare=prepare,
)
