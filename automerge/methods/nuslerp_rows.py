"""NuSLERP of each row or each column separately."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from automerge.methods.base import (
    Coefficients,
    Knob,
    Method,
    Operands,
    Statistics,
    Values,
    scaling,
    weight,
)
from automerge.methods.shared.sphere import COLINEAR, position

if TYPE_CHECKING:
    from torch import Tensor


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return 1−t and t, with t = w₂ / (w₁ + w₂), and whether columns are meant."""
    t = position(values)
    return Coefficients(
        each=((1 - t,), (t,)), shared=(1.0,), switches=(values.switch["nuslerp_row_wise"],)
    )


def task_coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return the same and λ; 0 where both weights are 0."""
    scale = values.number["lambda"] if any(values.each["weight"]) else 0.0
    made = coefficients(values, statistics)
    return Coefficients(made.each, (scale,), made.switches)


def prepare(operands: Operands) -> tuple[Tensor, ...]:
    """Return the cosines along the last dimension and along the first; 1 for a zero vector."""
    first, second = operands.sources if operands.base is None else operands.task_vectors
    return tuple(cosines(first, second, dim) for dim in ((-1, 0) if first.dim() else ()))


def cosines(first: Tensor, second: Tensor, dim: int) -> Tensor:
    """Return the cosines of the angles between vectors along one dimension, in float64."""
    import torch

    first, second = first.double(), second.double()
    lengths = first.norm(dim=dim, keepdim=True) * second.norm(dim=dim, keepdim=True)
    inner = (first * second).sum(dim=dim, keepdim=True)
    return torch.where(lengths == 0, 1.0, inner / lengths).clamp(-1, 1)


def interpolated(
    vectors: Sequence[Tensor], prepared: Sequence[Tensor], scalars: Coefficients
) -> Tensor:
    """Return Σ sin(tᵢθ)/sin θ vᵢ, with the θ of each row or column; linear where collinear."""
    import torch

    first, second = vectors
    ((one,), (other,)), (along_first,) = scalars.each, scalars.switches
    if not prepared:  # a single number does not have an angle
        return first * one + second * other
    cosine = prepared[1 if along_first else 0]
    colinear = 1 - cosine * cosine <= COLINEAR
    angle = torch.where(colinear, torch.pi / 2, cosine.acos())
    weights = [
        torch.where(colinear, share, (share * angle).sin() / angle.sin()).to(first.dtype)
        for share in (one, other)
    ]
    return first * weights[0] + second * weights[1]


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return the two sources, interpolated."""
    return interpolated(operands.sources, operands.prepared, scalars)


def task_kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return base + λ times the two task vectors, interpolated."""
    (scale,) = scalars.shared
    merged = interpolated(operands.task_vectors, operands.prepared, scalars)
    return operands.anchor + merged * scale


ROW_WISE = Knob("nuslerp_row_wise", "recipe", "bool", False, None, (0.0, 1.0))
"""Whether vectors lie along the first dimension (what mergekit calls rows) or along the last."""

NUSLERP_ROWS = Method(
    name="nuslerp_rows",
    paper="Shoemake 1985, doi:10.1145/325165.325242; mergekit's NuSLERP, not flattened",
    knobs=(weight(), ROW_WISE),
    coefficients=coefficients,
    kernel=kernel,
    anchored=False,
    min_sources=2,
    max_sources=2,
    extent="tensor",
    prepare=prepare,
)

TASK_NUSLERP_ROWS = Method(
    name="task_nuslerp_rows",
    paper="Shoemake 1985, doi:10.1145/325165.325242; mergekit's NuSLERP with a base, not flattened",
    knobs=(weight(), scaling(), ROW_WISE),
    coefficients=task_coefficients,
    kernel=task_kernel,
    anchored=True,
    min_sources=2,
    max_sources=2,
    extent="tensor",
    prepare=prepare,
)
