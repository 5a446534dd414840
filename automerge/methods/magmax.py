"""The largest change to each element."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

from automerge.methods.base import Coefficients, Method, Operands, indicator, scaling, weight
from automerge.methods.shared.scaled import coefficients

if TYPE_CHECKING:
    from torch import Tensor


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return base + the wᵢ (xᵢ − base) of largest magnitude, λ in the weights.

    Of equal magnitudes, the positive one is taken, so that order does not matter; the authors'
    code takes the last.
    """
    vectors = [v * w for v, (w,) in zip(operands.task_vectors, scalars.each, strict=True)]
    highest = reduce(lambda a, b: a.maximum(b), vectors)
    lowest = reduce(lambda a, b: a.minimum(b), vectors)
    negative = indicator(-lowest - highest)
    return operands.anchor + (highest * (1 - negative) + lowest * negative)


MAGMAX = Method(
    name="magmax",
    paper="Marczak et al. 2024, MagMax, arXiv:2407.06322",
    knobs=(weight(), scaling()),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
)
