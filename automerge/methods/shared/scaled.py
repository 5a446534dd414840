"""Weights times λ: all the coefficients of methods that scale with their weights."""

from __future__ import annotations

from automerge.methods.base import Coefficients, Statistics, Values


def scaled_weights(values: Values) -> tuple[float, ...]:
    """λ wᵢ a source."""
    return tuple(values.number["lambda"] * w for w in values.each["weight"])


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """λ wᵢ a source."""
    return Coefficients(each=tuple((w,) for w in scaled_weights(values)))
