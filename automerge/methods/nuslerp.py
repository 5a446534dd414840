"""Spherical linear interpolation by weights, of two models or of two task vectors."""

from __future__ import annotations

from automerge.methods.base import Coefficients, Method, Statistics, Values, scaling, weight
from automerge.methods.shared.sphere import COLINEAR, along_arc, cosine, position
from automerge.methods.shared.sums import source_sum, task_vector_sum


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return sin((1−t)θ)/sin θ and sin(tθ)/sin θ with t = w₂ / (w₁ + w₂), as in mergekit.

    θ is the angle between the flattened vectors. Collinear vectors are interpolated linearly; so
    is a zero vector, which mergekit takes for orthogonal.
    """
    t = position(values)
    cos = cosine(statistics, 0, 1, undefined=1.0)
    weights = (1 - t, t) if 1 - cos * cos <= COLINEAR else along_arc(cos, t)
    return Coefficients(each=tuple((w,) for w in weights), shared=(1.0,))


def task_coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return λ times the factors of nuslerp; 0 where both weights are 0 (mergekit: t = ½)."""
    scale = values.number["lambda"] if any(values.each["weight"]) else 0.0
    each = coefficients(values, statistics).each
    return Coefficients(each=tuple((scale * w,) for (w,) in each))


NUSLERP = Method(
    name="nuslerp",
    paper="Shoemake 1985, doi:10.1145/325165.325242; mergekit's NuSLERP without a base",
    knobs=(weight(),),
    coefficients=coefficients,
    kernel=source_sum,
    anchored=False,
    min_sources=2,
    max_sources=2,
    statistics=("gram",),
)

TASK_NUSLERP = Method(
    name="task_nuslerp",
    paper="Ramé et al. 2024, WARP, arXiv:2406.16768, eq. 2; mergekit's NuSLERP with a base",
    knobs=(weight(), scaling()),
    coefficients=task_coefficients,
    kernel=task_vector_sum,
    anchored=True,
    min_sources=2,
    max_sources=2,
    statistics=("gram",),
)
