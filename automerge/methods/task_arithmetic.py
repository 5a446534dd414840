"""Sums of task vectors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from automerge.methods.base import (
    Coefficients,
    Method,
    Operands,
    Statistics,
    Values,
    normalize,
    scaling,
    weight,
)
from automerge.methods.linear import weighted_sum

if TYPE_CHECKING:
    from torch import Tensor

CANCELLED = 1e-8
"""|Σ w| below which weights cancel: sums are then not divided by it."""


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """The weights times λ."""
    return summands(values, [() for _ in values.each["weight"]])


def summands(values: Values, extras: Iterable[tuple[float, ...]]) -> Coefficients:
    """λ wᵢ a source, before what else it has."""
    scale = factor(values)
    pairs = zip(values.each["weight"], extras, strict=True)
    return Coefficients(each=tuple((scale * w, *extra) for w, extra in pairs))


def factor(values: Values) -> float:
    """λ; where sums are normalised, λ / Σ w, or λ where the weights cancel, as in mergekit."""
    total = sum(values.each["weight"])
    divided = values.switch["normalize"] and abs(total) >= CANCELLED
    return values.number["lambda"] / (total if divided else 1.0)


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """base + λ Σ wᵢ (xᵢ − base)."""
    return operands.anchor + weighted_sum(operands.task_vectors, scalars.each)


TASK_ARITHMETIC = Method(
    name="task_arithmetic",
    paper="Ilharco et al. 2023, Editing models with task arithmetic, arXiv:2212.04089",
    knobs=(weight(), scaling(), normalize(False)),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
)
