"""Trim, elect sign, merge."""

from __future__ import annotations

import math
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
    whole_model,
)
from automerge.methods.shared.election import ballot, elected

if TYPE_CHECKING:
    from torch import Tensor


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return a weight and a magnitude threshold per source, and λ.

    Trimming is per tensor, as in mergekit, or over the whole model, as in the paper. The threshold
    is the k-th largest magnitude, k = max(1, ⌊density · N⌋), so equal magnitudes stay together.
    """
    whole = values.switch["whole_model"]
    densities = enumerate(values.each["density"])
    return ballot(values, [(threshold(share, statistics, i, whole),) for i, share in densities])


def threshold(density: float, statistics: Statistics, i: int, whole: bool) -> float:
    """Return the smallest magnitude that a density keeps; infinity for density 0."""
    if density >= 1:
        return 0.0
    if density <= 0:
        return math.inf
    size = statistics.model_size if whole else statistics.size
    return statistics.magnitude(i, max(1, math.floor(density * size)), whole)


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return base + λ Σ wᵢ δᵢ / Σ wᵢ over trimmed elements δᵢ that agree with the elected sign."""
    weighted = [
        vector * ((1 - indicator(least - vector.abs())) * w)
        for vector, (w, least) in zip(operands.task_vectors, scalars.each, strict=True)
    ]
    return elected(operands, weighted, scalars)


TIES = Method(
    name="ties",
    paper="Yadav et al. 2023, TIES-Merging, arXiv:2306.01708",
    knobs=(weight(), density(), scaling((0.5, 2.0)), normalize(True), whole_model(False)),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
    statistics=("magnitude",),
)
