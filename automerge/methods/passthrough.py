"""One model, unchanged or scaled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automerge.methods.base import Coefficients, Knob, Method, Operands, Statistics, Values
from automerge.methods.shared.sums import weighted_sum

if TYPE_CHECKING:
    from torch import Tensor


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return the scale."""
    return Coefficients(each=tuple((scale,) for scale in values.each["scale"]))


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return scale · x."""
    return weighted_sum(operands.sources, scalars.each)


PASSTHROUGH = Method(
    name="passthrough",
    paper="Goddard et al. 2024, mergekit, arXiv:2403.13257",
    knobs=(Knob("scale", "source", "float", 1.0, 1.0, (-10.0, 10.0), smooth=True),),
    coefficients=coefficients,
    kernel=kernel,
    anchored=False,
    max_sources=1,
)
