"""Select, calculate, erase."""

from __future__ import annotations

import math
from itertools import combinations
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
from automerge.methods.shared.election import agreed, vote
from automerge.methods.shared.sums import added

if TYPE_CHECKING:
    from torch import Tensor

SLACK = 2.0**-18
"""Share by which the threshold is lowered, so that no rounding of variances undercuts it."""


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return each source's share of the selected elements' energy, the least variance, and λ.

    Shares are equal where no energy is left; in mergekit even below a mean square of 10⁻⁶.
    """
    topk, n = values.number["select_topk"], statistics.count
    least = 0.0
    if topk >= 1:
        energies = [statistics.inner(i, i) for i in range(n)]
    elif (k := math.floor(topk * statistics.n_spread)) > 0:
        least = statistics.spread(k) * (1 - SLACK)
        energies = [statistics.spread_energy(i, k) for i in range(n)]
    else:
        least, energies = math.inf, [0.0] * n
    total = sum(energies)
    return Coefficients(
        each=tuple((1 / n if total == 0 else energy / total,) for energy in energies),
        shared=(values.number["lambda"], least),
        switches=(topk < 1,),
    )


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return base + λ Σ ηᵢ δᵢ / Σ ηᵢ over selected elements that agree with the sign of Σ δᵢ."""
    vectors = operands.task_vectors
    (scale, least), (selective,) = scalars.shared, scalars.switches
    if selective:
        mask = 1 - indicator(least - variance(vectors))
        vectors = tuple(vector * mask for vector in vectors)
    shares = [share for (share,) in scalars.each]
    weighted = [vector * share for vector, share in zip(vectors, shares, strict=True)]
    return operands.anchor + agreed(weighted, shares, vote(vectors), True) * scale


def variance(vectors: tuple[Tensor, ...]) -> Tensor:
    """Return the population variance over vectors, from differences: exactly 0 where all agree."""
    squares = [(a - b).square() for a, b in combinations(vectors, 2)]
    return added(squares or [vectors[0] * 0]) / len(vectors) ** 2


SCE = Method(
    name="sce",
    paper="Wan et al. 2024, FuseChat, arXiv:2408.07990",
    knobs=(
        Knob("select_topk", "recipe", "float", 1.0, 1.0, (0.0, 1.0), (0.05, 1.0)),
        scaling(),
    ),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
    statistics=("gram", "spread"),
)
