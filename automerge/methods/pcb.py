"""Parameter competition balancing."""

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

CLIPPED = 1e-4
"""Share of a task vector's magnitudes clipped at each end, as in the authors' pcb-merging.py."""


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return λ times the weights, and the ratio."""
    return Coefficients(
        each=tuple((w,) for w in scaled_weights(values)), shared=(values.number["ratio"],)
    )


def prepare(operands: Operands) -> tuple[Tensor, ...]:
    """Return, per source, the limits its magnitudes are clipped to and its scores, ascending.

    The sorted scores, which give the quantile of any ratio, are as large as the source in float32.
    """
    vectors = operands.task_vectors
    total = added(vectors)
    prepared = []
    for vector in vectors:
        limits = clip_limits(vector)
        prepared += [limits, scores(vector, total, limits, len(vectors)).reshape(-1).sort().values]
    return tuple(prepared)


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return base + Σ λ wᵢ sᵢ τᵢ / Σ sᵢ, where s are scores above the (1 − ratio) quantile.

    The s fall from 1 to 0 at that quantile; where all scores are equal, they are 1. Quantiles and
    clipping are per tensor; in the authors' code, pcb-merging.py, they are over the whole model.
    """
    (ratio,) = scalars.shared
    vectors = operands.task_vectors
    total = added(vectors)
    divisor, merged = total * 0, total * 0
    for i, (vector, (w,)) in enumerate(zip(vectors, scalars.each, strict=True)):
        limits, ordered = operands.prepared[2 * i : 2 * i + 2]
        size = ordered.numel()
        least, most = ordered[min(int(size * (1 - ratio)), size - 1)], ordered[-1]
        equal = 1 - indicator(most - least)
        raised = scores(vector, total, limits, len(vectors)).clamp(min=least) - least
        kept = (raised + equal) / (most - least + equal)
        clipped = vector.sign() * vector.abs().clamp(limits[0], limits[1])
        divisor = divisor + kept
        merged = merged + clipped * kept * w
    return operands.anchor + merged / divisor.clamp(min=1e-12)


def scores(vector: Tensor, total: Tensor, limits: Tensor, count: int) -> Tensor:
    """Return exp(n · |τ̄|²) tanh(τ Σ τ): competition within a task times that between n tasks.

    |τ̄| are the clipped magnitudes, scaled to [0, 1].
    """
    low, high = limits
    spread = high - low
    scaled = (vector.abs().clamp(low, high) - low) / (spread + 1 - indicator(spread))
    competition: Tensor = (scaled.square() * count).exp() * (vector * total).tanh()
    return competition


def clip_limits(vector: Tensor) -> Tensor:
    """Return the magnitudes beyond which the clipped share lies, at each end."""
    ordered = vector.abs().reshape(-1).sort().values
    n_clipped = int(CLIPPED * ordered.numel())
    return ordered[[n_clipped, ordered.numel() - 1 - n_clipped]]


PCB = Method(
    name="pcb",
    paper="Du et al. 2024, Parameter competition balancing, arXiv:2410.02396",
    knobs=(
        weight(),
        Knob("ratio", "recipe", "float", 0.1, 1.0, (0.0, 1.0), (0.05, 0.2)),
        scaling((0.5, 2.0)),
    ),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
    compares=True,
    extent="tensor",
    prepare=prepare,
)
