"""DELLA's MAGPRUNE: elements are dropped at random, small magnitudes more often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from automerge.methods.base import Knob, Operands, Statistics, Values, density, indicator
from automerge.methods.transforms.base import Scalars, Transform

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = Knob("epsilon", "source", "float", 0.15, 0.0, (0.0, 1.0), (0.0, 0.3))
"""Half the range of the probabilities of being kept; the paper's ε is the whole range."""


def coefficients(
    values: Values, statistics: Statistics, weights: Sequence[float], factors: Sequence[float]
) -> Scalars:
    """Return the factor, the least probability of being kept and their range's width, per source.

    The range density ± epsilon is narrowed evenly to fit into [0, 1], so the expected share kept
    is always the density: 0 keeps nothing and 1 everything. mergekit refuses ranges that do not
    fit.
    """
    halves = [
        (density, min(epsilon, density, 1 - density))
        for density, epsilon in zip(values.each["density"], values.each["epsilon"], strict=True)
    ]
    return tuple(
        (factor, density - half, 2 * half)
        for factor, (density, half) in zip(factors, halves, strict=True)
    )


def kernel(operands: Operands, scalars: Scalars) -> tuple[Tensor, ...]:
    """Return task vectors times a factor, each element kept with probability p, and divided by it.

    p is linear in the element's rank. mergekit divides by the share of the L1 norm that was kept
    instead of by p. Uniforms depend on no knob, so masks are nested.
    """
    vectors = []
    for vector, uniform, rank, (factor, least, width) in zip(
        operands.task_vectors, operands.uniforms, operands.ranks, scalars, strict=True
    ):
        p = rank * width + least
        mask = indicator(p - uniform)
        vectors.append(vector * (mask * factor) / (p + (1 - mask)))
    return tuple(vectors)


DELLA = Transform(
    name="della",
    paper="Deep et al. 2024, DELLA-Merging, arXiv:2406.11617",
    knobs=(density(), EPSILON),
    coefficients=coefficients,
    kernel=kernel,
    seeded=True,
    statistics=("ranks",),
)
