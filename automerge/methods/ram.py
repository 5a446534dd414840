"""Averages over the task vectors that are active, element by element."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automerge.methods.base import (
    Coefficients,
    Method,
    Operands,
    Statistics,
    Values,
    indicator,
    scaling,
)
from automerge.methods.shared.changed import EPSILON
from automerge.methods.shared.sums import added

if TYPE_CHECKING:
    from torch import Tensor


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return the magnitude above which an element is active, and λ."""
    return Coefficients(
        each=((1.0,),) * statistics.count,
        shared=(values.number["epsilon"], values.number["lambda"]),
    )


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return base + λ Σ δᵢ / c over the c active elements: what one source changed stays whole."""
    vectors = operands.task_vectors
    epsilon, scale = scalars.shared
    active = [indicator(vector.abs() - epsilon) for vector in vectors]
    total = added([vector * mask for vector, mask in zip(vectors, active, strict=True)])
    count = added(active)
    return operands.anchor + total / (count + (1 - count.sign())) * scale


RAM = Method(
    name="ram",
    paper="Yuan et al. 2026, Behavior Knowledge Merge in Reinforced Agentic Models, "
    "arXiv:2601.13572",
    knobs=(EPSILON, scaling()),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
)
