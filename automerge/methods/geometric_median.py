"""The point with the smallest sum of distances to the task vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from automerge.methods.base import Coefficients, Method, Statistics, Values, scaling, weight
from automerge.methods.shared.sums import task_vector_sum

MAX_STEPS = 100
FLAT = 1e-12
"""Relative difference of two sums of distances from which one point counts as better."""
RESOLUTION = 1e-13
"""The most that Weiszfeld's step moves any share of a point that is the minimum: rounding."""
MARGIN = 1e-9
"""Relative margin by which the counts at a vector must outweigh the others' pull on a minimum."""
DAMPING = 1e-8
"""Share of the largest curvature that is added to all: in directions flatter than that, Newton's
steps, which only rounding would decide, are short."""
NEAR = 1e-6
"""Share of a vector's length below which a distance to it is taken for a rounding error."""


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return λ times the median's shares of the task vectors, per tensor.

    A weight is how many times a source counts; a negative one counts its negated task vector. The
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
    """Return the shares cᵢ, which sum to 1, that minimise Σ nᵢ ‖vᵢ − Σ cⱼ vⱼ‖.

    All are 0 where nothing is counted. The result is one of the vectors where that is the minimum
    (Vardi & Zhang 2000, doi:10.1073/pnas.97.4.1423), the middle of two that count the same, else
    where Weiszfeld's iteration ends. Starting from the mean, each step is the better of
    Weiszfeld's and Newton's: the one with the lower sum of distances or, where these differ by
    rounding only, as they do within 10⁻⁶ of the minimum, the one after which Weiszfeld's step is
    shorter.

    Args:
        counts: nᵢ, how many times each vector counts; at least 0.
        gram: inner products of the vectors, n × n.
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
    if len(counted) == 2:
        return shares
    least = NEAR * min(lengths)
    at = look(shares, counts, gram, least)
    for _ in range(MAX_STEPS):
        if at.length < RESOLUTION:
            break
        plain, ahead = (look(to, counts, gram, least) for to in (at.step, newton(at, gram)))
        gain = plain.cost(counts) - ahead.cost(counts)
        flat = abs(gain) <= FLAT * plain.cost(counts)
        at = ahead if (ahead.length < plain.length if flat else gain > 0) else plain
    return list(at.step)


@dataclass(frozen=True)
class Look:
    """A point by its shares, its distance to each vector, and where Weiszfeld's step leads."""

    shares: Sequence[float]
    distances: Sequence[float]
    step: Sequence[float]

    def cost(self, counts: Sequence[float]) -> float:
        """Return the weighted sum of distances."""
        return inner(counts, self.distances)

    @property
    def length(self) -> float:
        """How far the step moves any share."""
        return max(abs(a - b) for a, b in zip(self.shares, self.step, strict=True))


def look(
    shares: Sequence[float], counts: Sequence[float], gram: Sequence[Sequence[float]], least: float
) -> Look:
    """Take Weiszfeld's step: a vector's share is its count over its distance to the point."""
    near = [max(d, least) for d in distances(shares, gram)]
    pulls = [n / d for n, d in zip(counts, near, strict=True)]
    total = sum(pulls)
    return Look(shares, near, [pull / total for pull in pulls])


def newton(at: Look, gram: Sequence[Sequence[float]]) -> list[float]:
    """Return the shares that Weiszfeld's step would not move if it were linear in them."""
    n = range(len(at.shares))
    products = [inner(row, at.shares) for row in gram]
    pulls = [
        [(products[j] - gram[i][j]) / (at.distances[i] * at.distances[i]) for j in n] for i in n
    ]
    means = [inner(at.step, [pulls[k][j] for k in n]) for j in n]
    matrix = [
        [(1 + DAMPING) * (i == j) - at.step[i] * (means[j] - pulls[i][j]) for j in n] for i in n
    ]
    moves = solved(matrix, [b - a for a, b in zip(at.shares, at.step, strict=True)])
    return [share + move for share, move in zip(at.shares, moves, strict=True)]


def solved(matrix: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """Solve linear equations (Gauss-Jordan with row pivots); return zeros for a singular matrix."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    n = range(len(rows))
    for at in n:
        pivot = max(range(at, len(rows)), key=lambda i: abs(rows[i][at]))
        rows[at], rows[pivot] = rows[pivot], rows[at]
        if rows[at][at] == 0:
            return [0.0 for _ in n]
        for i in n:
            if i != at:
                factor = rows[i][at] / rows[at][at]
                rows[i] = [x - factor * y for x, y in zip(rows[i], rows[at], strict=True)]
    return [row[-1] / row[i] for i, row in enumerate(rows)]


def distances(shares: Sequence[float], gram: Sequence[Sequence[float]]) -> list[float]:
    """Return the distance of each vector to the point with these shares, which sum to 1."""
    products = [inner(row, shares) for row in gram]
    square = inner(shares, products)
    return [root(row[i] - 2 * products[i] + square) for i, row in enumerate(gram)]


def inner(one: Sequence[float], other: Sequence[float]) -> float:
    """Return Σ aᵢ bᵢ."""
    return sum(a * b for a, b in zip(one, other, strict=True))


def is_minimum(i: int, counts: Sequence[float], gram: Sequence[Sequence[float]]) -> bool:
    """Return whether the counts at vector i outweigh the pull of all others on it."""

    def between(j: int, k: int) -> float:
        return gram[j][k] - gram[i][j] - gram[i][k] + gram[i][i]

    least = NEAR * root(gram[i][i])
    distances = [root(between(j, j)) for j in range(len(counts))]
    pulls = {j: counts[j] / d for j, d in enumerate(distances) if d > least and counts[j] > 0}
    here = sum(n for j, n in enumerate(counts) if j not in pulls)
    square = sum(p * q * between(j, k) for j, p in pulls.items() for k, q in pulls.items())
    return root(square) < here * (1 - MARGIN)


def root(square: float) -> float:
    """Return the square root; 0 for a number that rounding made negative."""
    return math.sqrt(max(square, 0.0))


GEOMETRIC_MEDIAN = Method(
    name="geometric_median",
    paper="Model merging using geometric median, openreview.net/forum?id=4VD2jMqJbN",
    knobs=(weight(), scaling((0.5, 2.0))),
    coefficients=coefficients,
    kernel=task_vector_sum,
    anchored=True,
    statistics=("gram",),
)
