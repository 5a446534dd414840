"""TIES with random dropping by magnitude instead of trimming."""

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
from automerge.methods.shared.magprune import EPSILON, pruned, windows

if TYPE_CHECKING:
    from torch import Tensor


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return wᵢ and the range of probabilities per source, and λ."""
    return ballot(values, windows(values))


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return TIES's election and merge over mᵢ (xᵢ − base) / pᵢ, with mᵢ a Bernoulli(pᵢ) mask."""
    return elected(operands, pruned(operands, scalars.each), scalars)


DELLA = Method(
    name="della",
    paper="Deep et al. 2024, DELLA-Merging, arXiv:2406.11617",
    knobs=(weight(), density(), EPSILON, scaling(), normalize(True)),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
    seeded=True,
    statistics=("ranks",),
)
