"""What the first source does not share with the others, extracted from them and subtracted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automerge.methods.base import Method, Operands, indicator, scaling, weight
from automerge.methods.shared.scaled import coefficients

if TYPE_CHECKING:
    from torch import Tensor

    from automerge.methods.base import Coefficients

OPPOSITE = 1e-5
"""Length of a sum of two unit vectors below which they are opposite, and have nothing in common."""


def prepare(operands: Operands) -> tuple[Tensor, ...]:
    """Return Ext(τᵢ) of every source but the first, computed in float64."""
    expert, *others = (vector.double() for vector in operands.task_vectors)
    return tuple(extracted(expert, other).to(operands.anchor.dtype) for other in others)


def extracted(expert: Tensor, other: Tensor) -> Tensor:
    """Return `other` without its part along what its rows have in common with the expert's.

    That is the direction of the sum of two rows' unit vectors; there is none where one of them is
    0. Tensors of one dimension are a single row.
    """
    rows = [v if v.ndim else v.reshape(1) for v in (expert, other)]
    lengths = [row.norm(dim=-1, keepdim=True) for row in rows]
    both = indicator(lengths[0]) * indicator(lengths[1])
    units = [row / (n + 1 - indicator(n)) for row, n in zip(rows, lengths, strict=True)]
    total = (units[0] + units[1]) * both
    size = total.norm(dim=-1, keepdim=True)
    common = total * indicator(size - OPPOSITE) / size.clamp(min=OPPOSITE)
    kept: Tensor = rows[1] - (rows[1] * common).sum(-1, keepdim=True) * common
    return kept.reshape(other.shape)


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return base + λ (w₁ τ₁ − Σ wᵢ Ext(τᵢ)): the paper's α is w₂."""
    (first,), *others = scalars.each
    merged = operands.anchor + operands.task_vectors[0] * first
    for part, (share,) in zip(operands.prepared, others, strict=True):
        merged = merged - part * share
    return merged


EXT_SUB = Method(
    name="ext_sub",
    paper="Hu et al. 2023, Separate the wheat from the chaff, arXiv:2308.08090",
    knobs=(weight(), scaling()),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
    ordered=True,
    compares=True,
    extent="tensor",
    prepare=prepare,
)
