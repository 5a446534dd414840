"""Spherical linear interpolation of two models."""

from __future__ import annotations

from automerge.methods.base import Coefficients, Knob, Method, Statistics, Values
from automerge.methods.shared.sphere import along_arc, cosine
from automerge.methods.shared.sums import source_sum

COLINEAR = 0.9995
"""|cos θ| above which interpolation is linear."""


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return sin((1−t)θ)/sin θ and sin(tθ)/sin θ, applied to the tensors without normalising.

    θ is the angle between the flattened tensors. Tensors that are nearly collinear are
    interpolated linearly, as in mergekit; so is a zero tensor, which mergekit takes for orthogonal.
    """
    t = values.number["t"]
    cos = cosine(statistics, 0, 1, undefined=1.0)
    weights = (1 - t, t) if abs(cos) > COLINEAR else along_arc(cos, t)
    return Coefficients(each=tuple((w,) for w in weights), shared=(1.0,))


SLERP = Method(
    name="slerp",
    paper="Shoemake 1985, Animating rotation with quaternion curves, doi:10.1145/325165.325242",
    knobs=(Knob("t", "recipe", "float", 0.5, 0.0, (0.0, 1.0), (0.0, 1.0), smooth=True),),
    coefficients=coefficients,
    kernel=source_sum,
    anchored=False,
    ordered=True,
    min_sources=2,
    max_sources=2,
    statistics=("gram",),
)
