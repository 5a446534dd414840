"""Dropping by magnitude: what both DELLA methods share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from automerge.methods.base import Knob, Operands, Values, indicator

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = Knob("epsilon", "source", "float", 0.15, 0.0, (0.0, 1.0), (0.0, 0.3))
"""Half the range of the probabilities of being kept; the paper's ε is the whole range."""


def windows(values: Values) -> tuple[tuple[float, float], ...]:
    """Return the least probability of being kept and the width of their range, per source.

    The range density ± epsilon is narrowed evenly to fit into [0, 1], so the expected share kept
    is always the density: 0 keeps nothing and 1 everything. mergekit refuses ranges that do not
    fit.
    """
    halves = [
        (density, min(epsilon, density, 1 - density))
        for density, epsilon in zip(values.each["density"], values.each["epsilon"], strict=True)
    ]
    return tuple((density - half, 2 * half) for density, half in halves)


def pruned(operands: Operands, scalars: Iterable[tuple[float, ...]]) -> tuple[Tensor, ...]:
    """Return weighted task vectors, each element kept with probability p, and divided by it.

    p is linear in the element's rank. `scalars` are weight, least probability and the range's
    width, per source. mergekit divides by the share of the L1 norm that was kept instead of by p.
    Uniforms depend on no knob, so masks are nested.
    """
    vectors = []
    for vector, uniform, rank, (w, least, width) in zip(
        operands.task_vectors, operands.uniforms, operands.ranks, scalars, strict=True
    ):
        p = rank * width + least
        mask = indicator(p - uniform)
        vectors.append(vector * (mask * w) / (p + (1 - mask)))
    return tuple(vectors)
