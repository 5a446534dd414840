"""TIES in the basis that the task vectors share."""

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
)
from automerge.methods.shared.aligned import aligned, elected, prepare
from automerge.methods.shared.election import ballot
from automerge.methods.shared.order import kth_largest

if TYPE_CHECKING:
    from torch import Tensor


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return weight and density per source, and λ."""
    return ballot(values, [(share,) for share in values.each["density"]])


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return base + λ U TIES(Σ V₁ᵀ, …, Σ Vₙᵀ); tensors that are no matrices are merged by TIES.

    Trimming is per tensor; the authors trim over the whole model. They multiply Σ into the Vᵢ
    before merging, which the paper leaves open.
    """
    found = aligned(operands)
    weighted = [
        part * ((1 - indicator(threshold(part, float(share), found.size) - part.abs())) * w)
        for part, (w, share) in zip(found.parts, scalars.each, strict=True)
    ]
    return elected(operands, found.basis, weighted, scalars)


def threshold(part: Tensor, density: float, size: int) -> float:
    """Return the smallest magnitude that a density of `size` elements keeps."""
    if density >= 1:
        return 0.0
    if density <= 0:
        return math.inf
    kept = max(1, math.floor(density * size))
    return float(kth_largest(part.abs(), kept))


KNOTS_TIES = Method(
    name="knots_ties",
    paper="Stoica et al. 2024, Model merging with SVD to tie the KnOTS, arXiv:2410.19735",
    knobs=(weight(), density(), scaling((0.5, 2.0)), normalize(True)),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
    compares=True,
    extent="tensor",
    prepare=prepare,
)
