"""TIES with random dropping in place of trimming."""

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
from automerge.methods.dare import dropped, rescaled
from automerge.methods.ties import ballot, elected

if TYPE_CHECKING:
    from torch import Tensor


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """wᵢ, densityᵢ and 1/densityᵢ a source, and λ."""
    return ballot(values, [(kept, rescaled(1.0, kept)) for kept in values.each["density"]])


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """TIES's election and merge over mᵢ (xᵢ − base) / densityᵢ."""
    vectors = dropped(operands, tuple(kept for _, kept, _ in scalars.each))
    grown = [v * r for v, (_, _, r) in zip(vectors, scalars.each, strict=True)]
    return elected(operands, grown, scalars)


DARE_TIES = Method(
    name="dare_ties",
    paper="Yu et al. 2024, arXiv:2311.03099, with Yadav et al. 2023, arXiv:2306.01708",
    knobs=(weight(), density(), scaling(), normalize(False)),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
    seeded=True,
)
