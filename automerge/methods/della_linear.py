"""Sums of task vectors with elements dropped at random by magnitude."""

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
from automerge.methods.shared.magprune import EPSILON, pruned, windows
from automerge.methods.shared.scaled import summands
from automerge.methods.shared.sums import added

if TYPE_CHECKING:
    from torch import Tensor


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return λ wᵢ and the range of probabilities per source."""
    return summands(values, windows(values))


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return base + λ Σ wᵢ mᵢ (xᵢ − base) / pᵢ, with mᵢ a Bernoulli(pᵢ) mask."""
    return operands.anchor + added(pruned(operands, scalars.each))


DELLA_LINEAR = Method(
    name="della_linear",
    paper="Deep et al. 2024, DELLA-Merging, arXiv:2406.11617, without the election of signs",
    knobs=(weight(), density(), EPSILON, scaling(), normalize(False)),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
    seeded=True,
    statistics=("ranks",),
)
