"""Weights times λ, normalised or in shares: coefficients of methods that scale with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from automerge.methods.base import Coefficients, Statistics, Values

CANCELLED = 1e-8
"""|Σ w| below which weights cancel: sums are then not divided by it."""


def scaled_weights(values: Values) -> tuple[float, ...]:
    """Return λ wᵢ per source."""
    return tuple(values.number["lambda"] * w for w in values.each["weight"])


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return λ wᵢ per source."""
    return Coefficients(each=tuple((w,) for w in scaled_weights(values)))


def summands(values: Values, extras: Iterable[tuple[float, ...]]) -> Coefficients:
    """Return λ wᵢ per source, before its other scalars."""
    scale = factor(values)
    pairs = zip(values.each["weight"], extras, strict=True)
    return Coefficients(each=tuple((scale * w, *extra) for w, extra in pairs))


def factor(values: Values) -> float:
    """Return λ; if sums are normalised, λ / Σ w, or λ where the weights cancel, as in mergekit."""
    total = sum(values.each["weight"])
    divided = values.switch.get("normalize", False) and abs(total) >= CANCELLED
    return values.number["lambda"] / (total if divided else 1.0)


def shares(
    weights: Sequence[float], squares: Sequence[float], scale: float
) -> tuple[tuple[float], ...]:
    """Return weighted shares of a sum of squares; 0 where there is nothing to share."""
    total = sum(abs(w) * s for w, s in zip(weights, squares, strict=True))
    return tuple(
        (scale * w * s / total if total != 0 else 0.0,)
        for w, s in zip(weights, squares, strict=True)
    )
