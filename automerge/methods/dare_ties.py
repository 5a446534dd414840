"""TIES with random dropping instead of trimming."""

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
from automerge.methods.shared.dare import dropped, rescaled
from automerge.methods.shared.election import ballot, elected

if TYPE_CHECKING:
    from torch import Tensor


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return wᵢ, wᵢ / densityᵢ and densityᵢ per source, and λ."""
    pairs = zip(values.each["weight"], values.each["density"], strict=True)
    return ballot(values, [(rescaled(w, density), density) for w, density in pairs])


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return TIES's election and merge over mᵢ (xᵢ − base) / densityᵢ."""
    weighted = dropped(operands, [(factor, density) for _, factor, density in scalars.each])
    return elected(operands, weighted, scalars)


DARE_TIES = Method(
    name="dare_ties",
    paper="Yu et al. 2024, arXiv:2311.03099, with Yadav et al. 2023, arXiv:2306.01708",
    knobs=(weight(), density(), scaling(), normalize(False)),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
    seeded=True,
)
