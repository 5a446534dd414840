"""Interpolation between the base and the average, by the angle between task vectors."""

from __future__ import annotations

from itertools import combinations

from automerge.methods.base import Coefficients, Method, Statistics, Values, scaling
from automerge.methods.shared.sphere import cosine
from automerge.methods.shared.sums import task_vector_sum


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return λ t / n per source, by the mean cosine of all pairs; a zero vector is orthogonal.

    mergekit takes 10⁻⁶ for products of norms below that, so small task vectors stay nearer to the
    base there.
    """
    n = statistics.count
    pairs = [cosine(statistics, i, j, undefined=0.0) for i, j in combinations(range(n), 2)]
    factor = values.number["lambda"] * ratio(sum(pairs) / len(pairs), n) / n
    return Coefficients(each=((factor,),) * n)


def ratio(cosine: float, n: int) -> float:
    """Return t = n cos θ / (1 + (n−1) cos θ) (eq. 4); 0 where cos θ ≤ 0.

    mergekit continues to negative t, away from all sources.
    """
    return 0.0 if cosine <= 0 else n * cosine / (1 + (n - 1) * cosine)


MODEL_STOCK = Method(
    name="model_stock",
    paper="Jang et al. 2024, Model Stock, arXiv:2403.19522",
    knobs=(scaling(),),
    coefficients=coefficients,
    kernel=task_vector_sum,
    anchored=True,
    min_sources=2,
    statistics=("gram",),
)
