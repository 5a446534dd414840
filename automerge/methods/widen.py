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
from automerge.methods.shared.matrices import is_matrix, stacked
from automerge.methods.shared.scaled import scaled_weights
from automerge.methods.shared.sums import added

if TYPE_CHECKING:
    from torch import Tensor


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return λ times the weights, and the paper's t and s."""
    return Coefficients(
        each=tuple((w,) for w in scaled_weights(values)),
        shared=(values.number["above_average"], values.number["calibration"]),
    )


def prepare(operands: Operands) -> tuple[Tensor, ...]:
    """Rank a matrix's columns per source, by change of magnitude and by change of direction."""
    base = operands.anchor
    if not is_matrix(base):
        return ()
    length, direction = disentangled(base)
    sources = [disentangled(source) for source in operands.sources]
    return (
        stacked([ranks((lengths - length).abs()) for lengths, _ in sources]),
        stacked([ranks((d - direction).square().sum(-2) / 2) for _, d in sources]),
    )


def disentangled(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the norms of columns, and the columns scaled to norm 1 (0 where the norm is 0)."""
    lengths = matrix.norm(dim=-2)
    return lengths, matrix / (lengths + 1 - indicator(lengths))[..., None, :]


def ranks(divergences: Tensor) -> Tensor:
    """Return 0 for the least along the last dimension, 1 for the next; ties in element order."""
    return divergences.argsort(dim=-1, stable=True).argsort(dim=-1).to(divergences.dtype)


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return base + Σ λ wᵢ sᵢ (xᵢ − base), with one score sᵢ per column, the mean of two kinds.

    A score is the softmax over the sources of a divergence: for columns, of ranks in [0, 1), by
    magnitude and by direction; for elements of vectors, of |xᵢ − base| itself. It is the
    calibration where a divergence is above `above_average` times its mean over the tensor. Columns
    belong to inputs. The authors' code takes the rows of token embeddings instead, which a kernel
    cannot tell from other matrices.
    """
    above_average, calibration = scalars.shared
    vectors = operands.task_vectors
    if is_matrix(operands.anchor):
        n = operands.anchor.shape[-1]
        least = above_average * (n - 1) / 2
        kinds = [scores(r / n, r - least, calibration) for r in operands.prepared]
        score = (added(kinds) / len(kinds))[..., None, :]
    else:
        changes = stacked([vector.abs().reshape(-1) for vector in vectors])
        excess = changes - above_average * changes.mean(-1, keepdim=True)
        score = scores(changes, excess, calibration)
        score = score.reshape(len(vectors), *operands.anchor.shape)
    scored = zip(vectors, score, scalars.each, strict=True)
    return operands.anchor + added([v * s * w for v, s, (w,) in scored])


def scores(divergences: Tensor, excess: Tensor, calibration: float) -> Tensor:
    """Return the importance of each column or element (last dimension) per source (the first)."""
    high = indicator(excess)
    return divergences.softmax(0) * (1 - high) + high * calibration


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
    compares=True,
    extent="tensor",
    prepare=prepare,
)
