"""Sums of task vectors."""

from __future__ import annotations

from automerge.methods.base import (
    Coefficients,
    Method,
    Statistics,
    Values,
    normalize,
    scaling,
    weight,
)
from automerge.methods.shared.scaled import summands
from automerge.methods.shared.sums import task_vector_sum


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return the weights times λ."""
    return summands(values, [() for _ in values.each["weight"]])


TASK_ARITHMETIC = Method(
    name="task_arithmetic",
    paper="Ilharco et al. 2023, Editing models with task arithmetic, arXiv:2212.04089",
    knobs=(weight(), scaling(), normalize(False)),
    coefficients=coefficients,
    kernel=task_vector_sum,
    anchored=True,
)
