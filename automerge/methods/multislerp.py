"""The weighted mean direction of several models, or of several task vectors."""

from __future__ import annotations

import math

from automerge.methods.base import (
    Coefficients,
    Knob,
    Method,
    Statistics,
    Values,
    scaling,
    weight,
)
from automerge.methods.shared.sphere import norms
from automerge.methods.shared.sums import source_sum, task_vector_sum

RESOLUTION = 1e-7
"""A mean of unit vectors that is shorter than this is rounding error."""


def weights(values: Values, statistics: Statistics) -> tuple[float, ...]:
    """Return the vectors' factors in m / ‖m‖ · Σ wᵢ ‖xᵢ‖, with m = Σ wᵢ xᵢ / (‖xᵢ‖ + eps).

    mergekit then moves along the mean of the projections onto the tangent space at m, which is
    zero: Σ wᵢ (uᵢ − ⟨uᵢ, m̂⟩ m̂) = m − ‖m‖ m̂. Where the directions cancel (‖m‖ < eps), the result
    is Σ wᵢ xᵢ, in mergekit for two vectors only. mergekit returns a single vector unchanged,
    whatever its weight.
    """
    given, eps = values.each["weight"], values.number["eps"]
    if values.switch["normalize_weights"]:
        total = sum(given) or math.nan
        given = tuple(w / total for w in given)
    lengths = norms(statistics)
    shares = [
        w / (length + eps) if length != 0 else 0.0 for w, length in zip(given, lengths, strict=True)
    ]
    n = range(statistics.count)
    square = sum(shares[i] * shares[j] * statistics.inner(i, j) for i in n for j in n)
    mean = math.sqrt(max(square, 0.0))
    if mean < max(eps, RESOLUTION):
        return given
    scale = sum(w * length for w, length in zip(given, lengths, strict=True)) / mean
    return tuple(share * scale for share in shares)


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return the factors of the sources."""
    return Coefficients(tuple((w,) for w in weights(values, statistics)), shared=(1.0,))


def task_coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return λ times the factors of the task vectors; 0 where all weights are 0."""
    scale = values.number["lambda"]
    if not any(values.each["weight"]):
        return Coefficients(((0.0,),) * statistics.count)
    return Coefficients(tuple((scale * w,) for w in weights(values, statistics)))


PAPER = "Goddard 2025, Multi-SLERP, goddard.blog/posts/multislerp-wow-what-a-cool-idea"
NORMALIZE = Knob("normalize_weights", "recipe", "bool", True, None, (0.0, 1.0))
EPS = Knob("eps", "recipe", "float", 1e-8, None, (0.0, 1.0))

MULTISLERP = Method(
    name="multislerp",
    paper=PAPER,
    knobs=(weight(), NORMALIZE, EPS),
    coefficients=coefficients,
    kernel=source_sum,
    anchored=False,
    statistics=("gram",),
)

TASK_MULTISLERP = Method(
    name="task_multislerp",
    paper=PAPER,
    knobs=(weight(), scaling(), NORMALIZE, EPS),
    coefficients=task_coefficients,
    kernel=task_vector_sum,
    anchored=True,
    statistics=("gram",),
)
