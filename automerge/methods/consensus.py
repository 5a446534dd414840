"""Task arithmetic over the elements that several tasks use (TALL masks)."""

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
from automerge.methods.shared.scaled import scaled_weights
from automerge.methods.shared.sums import added

if TYPE_CHECKING:
    from torch import Tensor


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return λ times the weight, and the λₜ of the mask, per source; k."""
    return Coefficients(
        each=tuple(zip(scaled_weights(values), values.each["mask_lambda"], strict=True)),
        shared=(values.number["k"],),
    )


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return base + τ where at least k sources have |τₜ| > λₜ |τ − τₜ| (TALL masks).

    τ = Σ τₜ and τₜ = λ wₜ (xₜ − base). The masks are made of weighted task vectors, so a source of
    weight 0 has no vote; the paper's weights are 1. A fractional k is rounded up. k = 0 is task
    arithmetic.
    """
    (k,) = scalars.shared
    weighted = [v * w for v, (w, _) in zip(operands.task_vectors, scalars.each, strict=True)]
    total = added(weighted)
    votes = added(
        [
            indicator(vector.abs() - (total - vector).abs() * strictness)
            for vector, (_, strictness) in zip(weighted, scalars.each, strict=True)
        ]
    )
    return operands.anchor + total * (1 - indicator(k - votes))


CONSENSUS = Method(
    name="consensus",
    paper="Wang et al. 2024, Localizing task information, arXiv:2405.07813",
    knobs=(
        weight(),
        Knob("mask_lambda", "source", "float", 0.4, 0.0, (0.0, 10.0), (0.2, 0.6)),
        Knob("k", "recipe", "float", 2.0, 0.0, (0.0, 100.0), (0.0, 2.0)),
        scaling(),
    ),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
)
