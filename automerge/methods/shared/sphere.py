"""Angles between whole tensors, from their inner products alone."""

from __future__ import annotations

import math

from automerge.methods.base import Statistics, Values

COLINEAR = 1e-12
"""sin² θ below which interpolation is linear."""
CANCELLED = 1e-6
"""|w₁ + w₂| below which the weights say nothing about t, which is then ½."""


def norms(statistics: Statistics) -> tuple[float, ...]:
    """Return the Euclidean norm of each vector."""
    return tuple(math.sqrt(statistics.inner(i, i)) for i in range(statistics.count))


def cosine(statistics: Statistics, i: int, j: int, undefined: float) -> float:
    """Return the cosine of the angle between two vectors; `undefined` where one of them is zero."""
    lengths = math.sqrt(statistics.inner(i, i)) * math.sqrt(statistics.inner(j, j))
    return clipped(statistics.inner(i, j) / lengths) if lengths != 0 else undefined


def clipped(cosine: float) -> float:
    """Clip a cosine that rounding moved outside [-1, 1]; NaN stays NaN."""
    return max(min(cosine, 1.0), -1.0)


def along_arc(cosine: float, t: float) -> tuple[float, float]:
    """Return sin((1−t)θ)/sin θ and sin(tθ)/sin θ (Shoemake 1985)."""
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def position(values: Values) -> float:
    """Return where two weights lie on the way from the first vector to the second, in [0, 1]."""
    first, second = values.each["weight"]
    total = first + second
    return second / total if abs(total) >= CANCELLED else 0.5
