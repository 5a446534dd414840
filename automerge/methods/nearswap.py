"""Steps of limited size from the base to another model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automerge.methods.base import (
    Coefficients,
    Knob,
    Method,
    Operands,
    Statistics,
    Values,
    scaling,
)

if TYPE_CHECKING:
    from torch import Tensor


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return t and λ."""
    return Coefficients(each=((1.0,),), shared=(values.number["t"], values.number["lambda"]))


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return base + λ min(1, t / |δ|) δ: the difference, clipped to [−t, t]."""
    (vector,) = operands.task_vectors
    t, scale = scalars.shared
    clipped = vector.clamp(-t, t) + vector * 0  # an infinite element must not pass for a finite one
    return operands.anchor + clipped * scale


NEARSWAP = Method(
    name="nearswap",
    paper="alchemonaut 2024, NearSwap, hf.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
    knobs=(
        Knob("t", "recipe", "float", 1e-4, 0.0, (0.0, 1.0), (0.0, 0.01), smooth=True),
        scaling(),
    ),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
    max_sources=1,
)
