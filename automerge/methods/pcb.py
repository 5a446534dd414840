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
    scaling,
    weight,
    whole_model,
)
from automerge.methods.shared.competition import Limits, scores
from automerge.methods.shared.scaled import scaled_weights
from automerge.methods.shared.sums import added

if TYPE_CHECKING:
    from torch import Tensor

CLIPPED = 1e-4
"""Share of a task vector's magnitudes clipped at each end, as in the authors' pcb-merging.py."""


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return λ times the weight, and what decides which elements count, per source.

    This is: the limits that magnitudes are clipped to and their difference; the least score that
    counts, the distance from there to the largest score, and 1 if there is none, else 0. They are
    those of the whole model, as in the authors' code, or of the tensor.
    """
    whole = values.switch["whole_model"]
    size = statistics.model_size if whole else statistics.size
    limits = [clip_limits(statistics, i, size, whole) for i in range(statistics.count)]
    least = min(int(size * (1 - values.number["ratio"])), size - 1)
    each = []
    for i, w in enumerate(scaled_weights(values)):
        low, high = (
            statistics.competition(i, size - index, limits, whole) for index in (least, size - 1)
        )
        each.append((w, *limits[i], low, high - low or 1.0, float(high == low)))
    return Coefficients(each=tuple(each))


def clip_limits(statistics: Statistics, i: int, size: int, whole: bool) -> Limits:
    """Return the magnitudes beyond which a vector is clipped, with the authors' indices."""
    first, last = int(size * CLIPPED), max(int(size * (1 - CLIPPED) - 1), 0)
    low, high = (statistics.magnitude(i, size - index, whole) for index in (first, last))
    return low, high, high - low or 1.0


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return base + Σ λ wᵢ sᵢ τᵢ / Σ sᵢ, where s are scores above the (1 − ratio) quantile.

    The s fall from 1 to 0 at that quantile; where all scores are equal, they are 1.
    """
    vectors = operands.task_vectors
    limits: list[Limits] = [(low, high, spread) for _, low, high, spread, *_ in scalars.each]
    divisor = added(vectors) * 0
    merged = divisor
    for vector, score, (w, low, high, _, least, span, equal) in zip(
        vectors, scores(vectors, limits), scalars.each, strict=True
    ):
        kept = (score.clamp(min=least) - least + equal) / span
        divisor = divisor + kept
        merged = merged + vector.sign() * vector.abs().clamp(low, high) * kept * w
    return operands.anchor + merged / divisor.clamp(min=1e-12)


PCB = Method(
    name="pcb",
    paper="Du et al. 2024, Parameter competition balancing, arXiv:2410.02396",
    knobs=(
        weight(),
        Knob("ratio", "recipe", "float", 0.1, 1.0, (0.0, 1.0), (0.05, 0.2)),
        scaling((0.5, 2.0)),
        whole_model(True),
    ),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
    compares=True,
    extent="tensor",
    statistics=("magnitude", "competition"),
)
