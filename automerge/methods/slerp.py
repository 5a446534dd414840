"""Spherical linear interpolation of two models."""

from __future__ import annotations

import math

from automerge.methods.base import Coefficients, Knob, Method, Statistics, Values
from automerge.methods.linear import kernel

COLINEAR = 0.9995
"""|cos θ| above which interpolation is linear."""


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """sin((1−t)θ)/sin θ and sin(tθ)/sin θ, applied to the tensors as they are.

    θ is the angle between the flattened tensors. Tensors that are (nearly) colinear, or zero, are
    interpolated linearly, as in mergekit.
    """
    t = values.number["t"]
    norms = math.sqrt(statistics.inner(0, 0) * statistics.inner(1, 1))
    cosine = statistics.inner(0, 1) / norms if norms > 0 else 1.0
    if math.isnan(norms) or math.isnan(cosine):
        weights = (math.nan, math.nan)
    elif abs(cosine) > COLINEAR:
        weights = (1 - t, t)
    else:
        angle = math.acos(cosine)
        weights = (math.sin((1 - t) * angle), math.sin(t * angle))
        weights = (weights[0] / math.sin(angle), weights[1] / math.sin(angle))
    return Coefficients(each=tuple((w,) for w in weights), shared=(1.0,))


SLERP = Method(
    name="slerp",
    paper="Shoemake 1985, Animating rotation with quaternion curves, doi:10.1145/325165.325242",
    knobs=(Knob("t", "recipe", "float", 0.5, 0.0, (0.0, 1.0), (0.0, 1.0)),),
    coefficients=coefficients,
    kernel=kernel,
    anchored=False,
    ordered=True,
    min_sources=2,
    max_sources=2,
    statistics=("gram",),
)
