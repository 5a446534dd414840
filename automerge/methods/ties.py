"""Trim, elect sign, merge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from automerge.methods.base import (
    Coefficients,
    Method,
    Operands,
    Statistics,
    Values,
    density,
    normalize,
    scaling,
    weight,
)

if TYPE_CHECKING:
    from torch import Tensor


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """A weight and a magnitude threshold a source, and λ.

    Trimming is per tensor, as in mergekit; the paper trims once over a whole model. The threshold
    is the k-th largest magnitude, k = max(1, ⌊density · N⌋), so equal magnitudes stay together.
    """
    weights, densities = values.each["weight"], values.each["density"]
    return Coefficients(
        each=tuple(
            (w, threshold(kept, statistics, i))
            for i, (w, kept) in enumerate(zip(weights, densities, strict=True))
        ),
        shared=(values.number["lambda"],),
        switches=(values.switch["normalize"],),
    )


def threshold(kept: float, statistics: Statistics, i: int) -> float:
    """The smallest magnitude that a density keeps; infinite for density 0."""
    if kept >= 1:
        return 0.0
    if kept <= 0:
        return math.inf
    return statistics.magnitude(i, max(1, math.floor(kept * statistics.size)))


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """base + λ Σ wᵢ δᵢ / Σ wᵢ over the trimmed elements δᵢ that agree with the elected sign."""
    trimmed = [
        vector * (vector.abs() >= least)
        for vector, (_, least) in zip(operands.task_vectors, scalars.each, strict=True)
    ]
    (scale,), (normalized,) = scalars.shared, scalars.switches
    weights = [w for w, _ in scalars.each]
    return operands.anchor + elect(trimmed, weights, normalized) * scale


def elect(vectors: Sequence[Tensor], weights: Sequence[float], normalized: bool) -> Tensor:
    """Sum the weighted elements whose sign is that of the sum over all sources.

    A sum of exactly 0 elects +. Normalised, each sum is divided by the weights that agreed; where
    none did, by 1.
    """
    weighted = [vector * w for vector, w in zip(vectors, weights, strict=True)]
    positive = sum(weighted[1:], weighted[0]) >= 0
    # Products, not `where`: a NaN must stay a NaN.
    agreeing = [((v > 0) & positive) | ((v < 0) & ~positive) for v in weighted]
    masked = [v * agrees for v, agrees in zip(weighted, agreeing, strict=True)]
    total = sum(masked[1:], masked[0])
    if not normalized:
        return total
    shares = [agrees * w for agrees, w in zip(agreeing, weights, strict=True)]
    divisor = sum(shares[1:], shares[0])
    return total / (divisor + (divisor == 0))


TIES = Method(
    name="ties",
    paper="Yadav et al. 2023, TIES-Merging, arXiv:2306.01708",
    knobs=(weight(), density(), scaling((0.5, 2.0)), normalize(True)),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
    statistics=("magnitude",),
)
