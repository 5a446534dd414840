"""Angles between whole tensors, from their inner products alone."""

from __future__ import annotations

import math

from automerge.methods.base import Statistics


def norms(statistics: Statistics) -> tuple[float, ...]:
    """The Euclidean norm of each vector."""
    return tuple(math.sqrt(statistics.inner(i, i)) for i in range(statistics.count))


def cosine(statistics: Statistics, i: int, j: int, undefined: float) -> float:
    """The cosine of the angle between two vectors; `undefined` where one of them is zero."""
    lengths = math.sqrt(statistics.inner(i, i)) * math.sqrt(statistics.inner(j, j))
    return clipped(statistics.inner(i, j) / lengths) if lengths != 0 else undefined


def clipped(cosine: float) -> float:
    """A cosine without the rounding error that leaves [-1, 1]; NaN stays NaN."""
    return max(min(cosine, 1.0), -1.0)


def along_arc(cosine: float, t: float) -> tuple[float, float]:
    """sin((1−t)θ)/sin θ and sin(tθ)/sin θ (Shoemake 1985)."""
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
