"""TIES with both ends of the task vectors trimmed."""

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
from automerge.methods.shared.election import ballot, elected
from automerge.methods.shared.outliers import GAMMA, bounds, masked

if TYPE_CHECKING:
    from torch import Tensor


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return wᵢ and the bounds of the magnitudes kept, per source, and λ."""
    return ballot(values, bounds(values, statistics))


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return TIES's election and merge over the masked task vectors."""
    vectors = masked(operands, tuple((least, most) for _, least, most in scalars.each))
    weighted = [v * w for v, (w, *_) in zip(vectors, scalars.each, strict=True)]
    return elected(operands, weighted, scalars)


BREADCRUMBS_TIES = Method(
    name="breadcrumbs_ties",
    paper="Davari & Belilovsky 2024, arXiv:2312.06795, with Yadav et al. 2023, arXiv:2306.01708",
    knobs=(weight(), density(), GAMMA, scaling(), normalize(False)),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
    statistics=("magnitude",),
)
