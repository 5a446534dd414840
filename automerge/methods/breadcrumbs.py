"""Sums of task vectors without their smallest and their largest elements."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automerge.methods.base import (
    Coefficients,
    Method,
    Operands,
    Statistics,
    Values,
    density,
    normalize,
    scaling,
    weight,
)
from automerge.methods.shared.outliers import GAMMA, bounds, masked
from automerge.methods.shared.scaled import summands
from automerge.methods.shared.sums import weighted_sum

if TYPE_CHECKING:
    from torch import Tensor


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return λ wᵢ and the bounds of the magnitudes kept, per source."""
    return summands(values, bounds(values, statistics))


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return base + λ Σ wᵢ mᵢ (xᵢ − base), with mᵢ the mask of the magnitudes kept."""
    vectors = masked(operands, tuple((least, most) for _, least, most in scalars.each))
    return operands.anchor + weighted_sum(vectors, scalars.each)


BREADCRUMBS = Method(
    name="breadcrumbs",
    paper="Davari & Belilovsky 2024, Model Breadcrumbs, arXiv:2312.06795",
    knobs=(weight(), density(), GAMMA, scaling(), normalize(False)),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
    statistics=("magnitude",),
)
