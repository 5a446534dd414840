"""Sums of task vectors with random elements dropped."""

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
from automerge.methods.shared.scaled import factor
from automerge.methods.shared.sums import added

if TYPE_CHECKING:
    from torch import Tensor


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return λ wᵢ / densityᵢ and densityᵢ per source."""
    scale = factor(values)
    pairs = zip(values.each["weight"], values.each["density"], strict=True)
    return Coefficients(each=tuple((rescaled(scale * w, density), density) for w, density in pairs))


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return base + λ Σ wᵢ mᵢ (xᵢ − base) / densityᵢ, with mᵢ a Bernoulli(densityᵢ) mask."""
    return operands.anchor + added(dropped(operands, scalars.each))


DARE_LINEAR = Method(
    name="dare_linear",
    paper="Yu et al. 2024, Language models are super Mario, arXiv:2311.03099",
    knobs=(weight(), density(), scaling(), normalize(False)),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
    seeded=True,
)
