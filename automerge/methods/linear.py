"""Weighted averages."""

from __future__ import annotations

import math

from automerge.methods.base import (
    Coefficients,
    Method,
    Statistics,
    Values,
    normalize,
    weight,
)
from automerge.methods.shared.sums import source_sum


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return the weights, and what their sum is divided by; weights that sum to 0 give NaN."""
    weights = values.each["weight"]
    divisor = sum(weights) if values.switch["normalize"] else 1.0
    return Coefficients(each=tuple((w,) for w in weights), shared=(divisor or math.nan,))


LINEAR = Method(
    name="linear",
    paper="Wortsman et al. 2022, Model soups, arXiv:2203.05482",
    knobs=(weight(), normalize(True)),
    coefficients=coefficients,
    kernel=source_sum,
    anchored=False,
)
