"""Trimming: only the largest elements of a task vector stay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from automerge.methods.base import Operands, Statistics, Values, density, indicator
from automerge.methods.transforms.base import Scalars, Transform

if TYPE_CHECKING:
    from torch import Tensor


def coefficients(
    values: Values, statistics: Statistics, weights: Sequence[float], factors: Sequence[float]
) -> Scalars:
    """Return the factor and the least magnitude that is kept, per source.

    Trimming is per tensor, as in mergekit, or over the whole model, as in the paper. The threshold
    is the k-th largest magnitude, k = max(1, ⌊density · N⌋), so equal magnitudes stay together.
    """
    whole = values.switch.get("whole_model", False)
    shares = enumerate(values.each["density"])
    thresholds = [threshold(share, statistics, i, whole) for i, share in shares]
    return tuple(zip(factors, thresholds, strict=True))


def threshold(density: float, statistics: Statistics, i: int, whole: bool) -> float:
    """Return the smallest magnitude that a density keeps; infinity for density 0."""
    if density >= 1:
        return 0.0
    if density <= 0:
        return math.inf
    size = statistics.model_size if whole else statistics.size
    return statistics.magnitude(i, max(1, math.floor(density * size)), whole)


def kernel(operands: Operands, scalars: Scalars) -> tuple[Tensor, ...]:
    """Return task vectors times a factor, without elements below the least magnitude."""
    return tuple(
        vector * ((1 - indicator(least - vector.abs())) * factor)
        for vector, (factor, least) in zip(operands.task_vectors, scalars, strict=True)
    )


TRIM = Transform(
    name="trim",
    paper="Yadav et al. 2023, TIES-Merging, arXiv:2306.01708",
    knobs=(density(),),
    coefficients=coefficients,
    kernel=kernel,
    statistics=("magnitude",),
)
