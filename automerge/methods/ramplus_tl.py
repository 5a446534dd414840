"""RAM that amplifies what only one source changed."""

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
)
from automerge.methods.shared.changed import EPSILON
from automerge.methods.shared.sums import added

if TYPE_CHECKING:
    from torch import Tensor


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return epsilon, r, alpha and λ."""
    names = ("epsilon", "r", "alpha", "lambda")
    return Coefficients(
        each=((1.0,),) * statistics.count, shared=tuple(values.number[name] for name in names)
    )


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return RAM's merge with elements that source i alone changed times 1 + r min(ρᵢ, alpha).

    ρᵢ is the number of changed elements it shares over the number that it alone changed, within
    the tensor (in the paper, over the whole model).
    """
    vectors = operands.task_vectors
    epsilon, r, alpha, scale = scalars.shared
    active = [indicator(vector.abs() - epsilon) for vector in vectors]
    count = added(active)
    alone = 1 - (count - 1).sign().abs()
    terms = []
    for vector, mask in zip(vectors, active, strict=True):
        unique = (mask * alone).double().sum()
        overlap = (mask.double().sum() - unique) / unique.clamp(min=1e-9)
        gain = (overlap.clamp(max=alpha) * r).to(vector.dtype)
        terms.append(vector * mask * (1 + gain * alone))
    return operands.anchor + added(terms) / (count + (1 - count.sign())) * scale


RAMPLUS_TL = Method(
    name="ramplus_tl",
    paper="Yuan et al. 2026, Behavior Knowledge Merge in Reinforced Agentic Models, "
    "arXiv:2601.13572, tensor by tensor",
    knobs=(
        Knob("r", "recipe", "float", 0.1, 0.0, (0.0, 10.0), (0.0, 0.5), smooth=True),
        Knob("alpha", "recipe", "float", 0.2, 0.0, (0.0, 10.0), (0.0, 1.0)),
        EPSILON,
        scaling(),
    ),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
    extent="tensor",
)
