"""Trim, elect sign, merge."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from automerge.methods.base import (
    Coefficients,
    Method,
    Operands,
    Statistics,
    Values,
    density,
    indicator,
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
    densities = enumerate(values.each["density"])
    return ballot(values, [(threshold(kept, statistics, i),) for i, kept in densities])


def ballot(values: Values, extras: Iterable[tuple[float, ...]]) -> Coefficients:
    """What `elected` needs: a weight a source, before what else the source has, and λ."""
    pairs = zip(values.each["weight"], extras, strict=True)
    return Coefficients(
        each=tuple((w, *extra) for w, extra in pairs),
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
    weighted = [
        vector * ((1 - indicator(least - vector.abs())) * w)
        for vector, (w, least) in zip(operands.task_vectors, scalars.each, strict=True)
    ]
    return elected(operands, weighted, scalars)


def elected(operands: Operands, weighted: Sequence[Tensor], scalars: Coefficients) -> Tensor:
    """base + λ times what is elected of weighted vectors, with coefficients of `ballot`."""
    (scale,), (normalized,) = scalars.shared, scalars.switches
    weights = [w for w, *_ in scalars.each]
    return operands.anchor + agreed(weighted, weights, vote(weighted), normalized) * scale


def vote(vectors: Sequence[Tensor]) -> Tensor:
    """The sign of the sum, element by element; a sum of exactly 0 elects +."""
    import torch

    total = added(vectors)
    return torch.ones_like(total).copysign(total)


def agreed(
    weighted: Sequence[Tensor], weights: Sequence[float], sign: Tensor, normalized: bool
) -> Tensor:
    """Sum the weighted elements of the elected sign.

    Normalised, each sum is divided by the weights that agreed; where none did, or they cancel,
    by 1.
    """
    agreeing = [(v * sign).relu() for v in weighted]
    elected = added(agreeing) * sign
    if not normalized:
        return elected
    divisor = added([indicator(v) * w for v, w in zip(agreeing, weights, strict=True)])
    return elected / (divisor + (1 - divisor.sign().abs()))


def added(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of tensors, in order."""
    return sum(tensors[1:], tensors[0])


TIES = Method(
    name="ties",
    paper="Yadav et al. 2023, TIES-Merging, arXiv:2306.01708",
    knobs=(weight(), density(), scaling((0.5, 2.0)), normalize(True)),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
    statistics=("magnitude",),
)
