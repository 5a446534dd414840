"""Dropping by magnitude: the part that both DELLA methods share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from automerge.methods.base import Knob, Operands, Values, indicator

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = Knob("epsilon", "source", "float", 0.15, 0.0, (0.0, 1.0), (0.0, 0.3))
"""Half the range of the probabilities to be kept; the paper's ε is all of it."""


def windows(values: Values) -> tuple[tuple[float, float], ...]:
    """The least probability to be kept, and how far the greatest lies above it, a source.

    The range density ± epsilon is narrowed evenly to fit into [0, 1], so the expected share kept
    is always the density: 0 keeps nothing and 1 everything. mergekit refuses what does not fit.
    """
    halves = [
        (density, min(epsilon, density, 1 - density))
        for density, epsilon in zip(values.each["density"], values.each["epsilon"], strict=True)
    ]
    return tuple((density - half, 2 * half) for density, half in halves)


def pruned(operands: Operands, scalars: Iterable[tuple[float, ...]]) -> tuple[Tensor, ...]:
    """Weighted task vectors with each element kept with a probability p linear in its rank, over p.

    `scalars` are weight, least probability and the range's width, a source. mergekit divides by the
    share of the L1 norm that was kept instead of by p. Uniforms depend on no knob, so masks are
    nested.
    """
    vectors = []
    for vector, uniform, rank, (w, least, width) in zip(
        operands.task_vectors, operands.uniforms, operands.ranks, scalars, strict=True
    ):
        p = rank * width + least
        mask = indicator(p - uniform)
        vectors.append(vector * (mask * w) / (p + (1 - mask)))
    return tuple(vectors)
