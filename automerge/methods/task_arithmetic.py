"""Sums of task vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automerge.methods.base import (
    Coefficients,
    Method,
    Operands,
    Statistics,
    Values,
    scaling,
    weight,
)
from automerge.methods.linear import weighted_sum

if TYPE_CHECKING:
    from torch import Tensor


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """The weights times λ."""
    scale = values.number["lambda"]
    return Coefficients(each=tuple((scale * w,) for w in values.each["weight"]))


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """base + λ Σ wᵢ (xᵢ − base)."""
    return operands.anchor + weighted_sum(operands.task_vectors, scalars.each)


TASK_ARITHMETIC = Method(
    name="task_arithmetic",
    paper="Ilharco et al. 2023, Editing models with task arithmetic, arXiv:2212.04089",
    knobs=(weight(), scaling()),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
)
