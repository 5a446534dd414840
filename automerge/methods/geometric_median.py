"""The point whose distances to the task vectors sum to the least."""

from __future__ import annotations

import math
from collections.abc import Sequence

from automerge.methods.base import Coefficients, Method, Statistics, Values, scaling, weight
from automerge.methods.task_arithmetic import kernel

MAX_STEPS = 100
TOLERANCE = 1e-9
"""Change of any share at which the iteration ends."""
NEAR = 1e-6
"""Part of a vector's length below which a distance to it is taken for a rounding error."""


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """λ times the median's shares of the task vectors, per tensor.

    A weight counts a source so many times; a negative one counts its negated task vector. The
    authors' code takes LoRA's products in q and v projections, and at most 300 plain steps.
    """
    weights = values.each["weight"]
    each = range(len(weights))
    signs = [math.copysign(1.0, w) for w in weights]
    gram = [[signs[i] * signs[j] * statistics.inner(i, j) for j in each] for i in each]
    shares = median([abs(w) for w in weights], gram)
    scale = values.number["lambda"]
    return Coefficients(
        each=tuple((scale * sign * share,) for sign, share in zip(signs, shares, strict=True))
    )


def median(counts: Sequence[float], gram: Sequence[Sequence[float]]) -> list[float]:
    """The shares cᵢ, which sum to 1, of min Σ nᵢ ‖vᵢ − Σ cⱼ vⱼ‖; all 0 where nothing is counted.

    One of the vectors where it is the minimum (Vardi & Zhang 2000, doi:10.1073/pnas.97.4.1423),
    else Weiszfeld's iteration from the mean, two steps and an extrapolation at a time. All
    distances follow from the inner products.
    """
    counted = [i for i, n in enumerate(counts) if n > 0]
    total = sum(counts)
    shares = [n / total if total else 0.0 for n in counts]
    lengths = [root(gram[i][i]) for i in counted if gram[i][i] > 0]
    if not lengths:
        return shares
    for i in counted:
        if is_minimum(i, counts, gram):
            return [float(j == i) for j in range(len(counts))]
    least = NEAR * min(lengths)
    for _ in range(MAX_STEPS):
        first = step(shares, counts, gram, least)
        second = step(first, counts, gram, least)
        if max(abs(a - b) for a, b in zip(first, second, strict=True)) < TOLERANCE:
            return second
        ahead = extrapolated(shares, first, second)
        shares = min((second, ahead), key=lambda at: cost(at, counts, gram))
    return shares


def step(
    shares: Sequence[float], counts: Sequence[float], gram: Sequence[Sequence[float]], least: float
) -> list[float]:
    """Weiszfeld's: each vector's share is what it counts over its distance to the present point."""
    near = [max(d, least) for d in distances(shares, gram)]
    pulls = [n / d for n, d in zip(counts, near, strict=True)]
    return [pull / sum(pulls) for pull in pulls]


def extrapolated(
    start: Sequence[float], first: Sequence[float], second: Sequence[float]
) -> list[float]:
    """Where two steps that shrink by a constant rate would lead in the end (Aitken)."""
    steps = [(b - a, c - b) for a, b, c in zip(start, first, second, strict=True)]
    square = sum(one * one for one, _ in steps)
    rate = sum(one * two for one, two in steps) / square if square else 0.0
    further = rate / (1 - rate) if 0 < rate < 1 else 0.0
    return [share + two * further for share, (_, two) in zip(second, steps, strict=True)]


def cost(
    shares: Sequence[float], counts: Sequence[float], gram: Sequence[Sequence[float]]
) -> float:
    """The weighted sum of distances."""
    return sum(n * d for n, d in zip(counts, distances(shares, gram), strict=True))


def distances(shares: Sequence[float], gram: Sequence[Sequence[float]]) -> list[float]:
    """The distance of each vector to the point with these shares, which sum to 1."""
    products = [sum(g * c for g, c in zip(row, shares, strict=True)) for row in gram]
    square = sum(c * p for c, p in zip(shares, products, strict=True))
    return [root(row[i] - 2 * products[i] + square) for i, row in enumerate(gram)]


def is_minimum(i: int, counts: Sequence[float], gram: Sequence[Sequence[float]]) -> bool:
    """Whether what counts at vector i outweighs the pull of all others on it."""

    def inner(j: int, k: int) -> float:
        return gram[j][k] - gram[i][j] - gram[i][k] + gram[i][i]

    least = NEAR * root(gram[i][i])
    distances = [root(inner(j, j)) for j in range(len(counts))]
    pulls = {j: counts[j] / d for j, d in enumerate(distances) if d > least and counts[j] > 0}
    here = sum(n for j, n in enumerate(counts) if j not in pulls)
    square = sum(p * q * inner(j, k) for j, p in pulls.items() for k, q in pulls.items())
    return root(square) < here * (1 - TOLERANCE)


def root(square: float) -> float:
    """The square root; 0 of a number that rounding made negative."""
    return math.sqrt(max(square, 0.0))


GEOMETRIC_MEDIAN = Method(
    name="geometric_median",
    paper="Model merging using geometric median, openreview.net/forum?id=4VD2jMqJbN",
    knobs=(weight(), scaling((0.5, 2.0))),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
    statistics=("gram",),
)
