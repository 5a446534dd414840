"""The papers' formulas, element by element in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tests.methods.oracles_literature import LITERATURE
from tests.methods.oracles_mergekit import ORACLES_MERGEKIT

Array = NDArray[np.float64]
Knobs = Mapping[str, float | bool]


def linear(base, sources, each, knobs, uniforms):
    total = sum(k["weight"] * x for k, x in zip(each, sources, strict=True))
    return total / sum(k["weight"] for k in each) if knobs["normalize"] else total


def slerp(base, sources, each, knobs, uniforms):
    a, b = sources
    cosine = float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b)))
    t = knobs["t"]
    if abs(cosine) > 0.9995:
        return (1 - t) * a + t * b
    angle = math.acos(cosine)
    return (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)


def task_arithmetic(base, sources, each, knobs, uniforms):
    total = sum(k["weight"] * (x - base) for k, x in zip(each, sources, strict=True))
    return base + knobs["lambda"] * total / divisor(each, knobs)


def divisor(each, knobs):
    return sum(k["weight"] for k in each) if knobs["normalize"] else 1.0


def elect(vectors, weights, normalize):
    merged = np.zeros_like(vectors[0])
    for i in range(merged.size):
        parts = [w * float(v.flat[i]) for w, v in zip(weights, vectors, strict=True)]
        sign = 1 if sum(parts) >= 0 else -1
        agreeing = [(p, w) for p, w in zip(parts, weights, strict=True) if np.sign(p) == sign]
        divisor = sum(w for _, w in agreeing) if normalize else 1.0
        merged.flat[i] = sum(p for p, _ in agreeing) / (divisor or 1.0)
    return merged


def ties(base, sources, each, knobs, uniforms):
    trimmed = []
    for k, x in zip(each, sources, strict=True):
        vector = (x - base).reshape(-1).copy()
        n_kept = max(1, int(k["density"] * vector.size)) if k["density"] > 0 else 0
        vector[np.argsort(-np.abs(vector), kind="stable")[n_kept:]] = 0
        trimmed.append(vector.reshape(base.shape))
    weights = [k["weight"] for k in each]
    return base + knobs["lambda"] * elect(trimmed, weights, knobs["normalize"])


def dare(base, sources, each, uniforms):
    return [
        np.where(u < k["density"], (x - base) / k["density"], 0.0)
        for k, x, u in zip(each, sources, uniforms, strict=True)
    ]


def dare_linear(base, sources, each, knobs, uniforms):
    vectors = dare(base, sources, each, uniforms)
    total = sum(k["weight"] * v for k, v in zip(each, vectors, strict=True))
    return base + knobs["lambda"] * total / divisor(each, knobs)


def dare_ties(base, sources, each, knobs, uniforms):
    vectors = dare(base, sources, each, uniforms)
    weights = [k["weight"] for k in each]
    return base + knobs["lambda"] * elect(vectors, weights, knobs["normalize"])


Oracle = Callable[
    [Array, Sequence[Array], Sequence[Knobs], Knobs, Sequence[Array]],
    Array,
]
ORACLES: Mapping[str, Oracle] = {
    f.__name__: f for f in (linear, slerp, task_arithmetic, ties, dare_linear, dare_ties)
} | {**ORACLES_MERGEKIT, **LITERATURE}
