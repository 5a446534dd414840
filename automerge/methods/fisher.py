"""Fisher merging: every weight is averaged by how sure each source is of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automerge.methods.base import Coefficients, Knob, Method, Operands, Statistics, Values, weight
from automerge.methods.shared.importance import floored, known, weighted_average
from automerge.methods.shared.sums import weighted_sum

if TYPE_CHECKING:
    from torch import Tensor

NEEDED = "squared_gradient"
FLOOR = Knob("floor", "recipe", "float", 1e-6, None, (0.0, 1.0))
"""The least Fisher information, as a share of a tensor's mean."""


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return the weights and the floor."""
    del statistics
    shares = tuple((w,) for w in values.each["weight"])
    return Coefficients(each=shares, shared=(values.number["floor"],))


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return Σ wᵢ Fᵢ θᵢ / Σ wᵢ Fᵢ (Matena & Raffel 2022, eq. 3), w being their λ.

    F is at least the floor times its mean over the tensor; in the authors' code the floor is
    absolute, and each source's F is divided by its norm over the whole model, a factor of w here.
    Tensors without evidence, and elements that no source is sure of, are averaged.
    """
    (floor,) = scalars.shared
    shares = [w for (w,) in scalars.each]
    importances = known(operands, NEEDED)
    if not importances:
        return weighted_sum(operands.sources, scalars.each) / sum(shares)
    weights = [floored(f, floor) * w for f, w in zip(importances, shares, strict=True)]
    return weighted_average(operands.sources, weights, shares)


FISHER = Method(
    name="fisher",
    paper="Matena & Raffel 2022, Merging models with Fisher-weighted averaging, arXiv:2111.09832",
    knobs=(weight(), FLOOR),
    coefficients=coefficients,
    kernel=kernel,
    anchored=False,
    extent="tensor",
    needs=(NEEDED,),
)
