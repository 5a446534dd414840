"""The mean of models on the sphere."""

from __future__ import annotations

import math
from collections.abc import Sequence

from automerge.methods.base import Coefficients, Knob, Method, Statistics, Values, weight
from automerge.methods.shared.sphere import clipped, cosine, norms
from automerge.methods.shared.sums import source_sum

ANTIPODAL = 1e-7
"""sin θ below which a point opposite to the mean pulls in no direction."""


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return the factors of the weighted Karcher mean of directions, scaled to the mean norm.

    Vectors with a norm of `tol` or less have no direction; if that holds for all, their average
    is taken (mergekit: zero). mergekit's weights are equal.
    """
    given, tol = values.each["weight"], values.number["tol"]
    total = sum(given) or math.nan
    shares = [w / total for w in given]
    lengths = norms(statistics)
    chosen = [i for i, length in enumerate(lengths) if not length <= tol and shares[i] != 0]
    if not chosen:
        return Coefficients(tuple((share,) for share in shares), shared=(1.0,))
    cosines = [
        [1.0 if i == j else cosine(statistics, i, j, undefined=0.0) for j in chosen] for i in chosen
    ]
    part = sum(shares[i] for i in chosen) or math.nan
    mean = karcher_mean(
        cosines, [shares[i] / part for i in chosen], int(values.number["max_iter"]), tol
    )
    scale = sum(share * length for share, length in zip(shares, lengths, strict=True))
    factors = [0.0] * len(given)
    for i, factor in zip(chosen, mean, strict=True):
        factors[i] = factor * (scale / lengths[i])
    return Coefficients(tuple((factor,) for factor in factors), shared=(1.0,))


def karcher_mean(
    cosines: Sequence[Sequence[float]], shares: Sequence[float], max_iter: int, tol: float
) -> list[float]:
    """Return the mean of unit vectors as their linear combination.

    Steps along the mean of their logarithms until that is shorter than `tol`.
    """

    def products(vector: Sequence[float]) -> list[float]:
        """Return the inner products of a combination with each unit vector."""
        return [sum(c * v for c, v in zip(row, vector, strict=True)) for row in cosines]

    def length(vector: Sequence[float]) -> float:
        square = sum(p * v for p, v in zip(products(vector), vector, strict=True))
        return math.sqrt(max(square, 0.0))

    n = range(len(shares))
    size = length(shares)
    mean = [float(i == 0) for i in n] if size < tol else [share / size for share in shares]
    for _ in range(max_iter):
        tangent = [0.0] * len(mean)
        for i, product in enumerate(products(mean)):
            angle = math.acos(clipped(product))
            if angle < tol or math.sin(angle) < ANTIPODAL:
                continue
            pull = shares[i] * angle / math.sin(angle)
            tangent = [v - pull * product * m for v, m in zip(tangent, mean, strict=True)]
            tangent[i] += pull
        size = length(tangent)
        if size < tol:
            break
        mean = [
            math.cos(size) * m + math.sin(size) * v / size
            for m, v in zip(mean, tangent, strict=True)
        ]
        size = length(mean)
        mean = [m / size for m in mean]
    return mean


KARCHER = Method(
    name="karcher",
    paper="Wang et al. 2026, LLM merging on the Fisher-Rao manifold, arXiv:2603.04972",
    knobs=(
        weight(),
        Knob("max_iter", "recipe", "float", 10.0, None, (0.0, 1000.0)),
        Knob("tol", "recipe", "float", 1e-5, None, (0.0, 1.0)),
    ),
    coefficients=coefficients,
    kernel=source_sum,
    anchored=False,
    statistics=("gram",),
)
