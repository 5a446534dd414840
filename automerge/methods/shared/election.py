"""Elect a sign for each element and merge what agrees: what relatives of TIES share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from automerge.methods.base import Coefficients, Operands, Values, indicator
from automerge.methods.shared.sums import added

if TYPE_CHECKING:
    from torch import Tensor


def ballot(values: Values, extras: Iterable[tuple[float, ...]]) -> Coefficients:
    """Return what `elected` needs: per source its weight, before its other scalars, and λ."""
    pairs = zip(values.each["weight"], extras, strict=True)
    return Coefficients(
        each=tuple((w, *extra) for w, extra in pairs),
        shared=(values.number["lambda"],),
        switches=(values.switch["normalize"],),
    )


def elected(operands: Operands, weighted: Sequence[Tensor], scalars: Coefficients) -> Tensor:
    """Return base + λ times what is elected of weighted vectors, with coefficients of `ballot`."""
    (scale,), (normalized,) = scalars.shared, scalars.switches
    weights = [w for w, *_ in scalars.each]
    return operands.anchor + agreed(weighted, weights, vote(weighted), normalized) * scale


def vote(vectors: Sequence[Tensor]) -> Tensor:
    """Return the sign of the sum, element by element; a sum of exactly 0 elects +."""
    import torch

    total = added(vectors)
    return torch.ones_like(total).copysign(total)


def agreed(
    weighted: Sequence[Tensor], weights: Sequence[float], sign: Tensor, normalized: bool
) -> Tensor:
    """Sum the weighted elements of the elected sign.

    When normalised, each sum is divided by the sum of the weights that agreed, or by 1 where none
    did or they cancel.
    """
    agreeing = [(v * sign).relu() for v in weighted]
    elected = added(agreeing) * sign
    if not normalized:
        return elected
    divisor = added([indicator(v) * w for v, w in zip(agreeing, weights, strict=True)])
    return elected / (divisor + (1 - divisor.sign().abs()))
