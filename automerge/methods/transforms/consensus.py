"""Consensus: only the elements that several tasks use stay (TALL masks)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from automerge.methods.base import Knob, Operands, Statistics, Values, indicator
from automerge.methods.shared.sums import added
from automerge.methods.transforms.base import Scalars, Transform

if TYPE_CHECKING:
    from torch import Tensor


def coefficients(
    values: Values, statistics: Statistics, weights: Sequence[float], factors: Sequence[float]
) -> Scalars:
    """Return the factor, the weight, the λₜ of the mask, and k, per source."""
    strictness, k = values.each["mask_lambda"], values.number["k"]
    triples = zip(factors, weights, strictness, strict=True)
    return tuple((factor, weight, one, k) for factor, weight, one in triples)


def kernel(operands: Operands, scalars: Scalars) -> tuple[Tensor, ...]:
    """Return task vectors times a factor, where at least k sources have |τₜ| > λₜ |τ − τₜ|.

    τ = Σ τₜ, and τₜ is the weighted task vector: a source of weight 0 has no vote; the paper's
    weights are 1. A fractional k is rounded up; k = 0 keeps everything.
    """
    vectors = operands.task_vectors
    weighted = [v * w for v, (_, w, *_) in zip(vectors, scalars, strict=True)]
    total = added(weighted)
    votes = added(
        [
            indicator(vector.abs() - (total - vector).abs() * strictness)
            for vector, (_, _, strictness, _) in zip(weighted, scalars, strict=True)
        ]
    )
    (_, _, _, k) = scalars[0]
    used = 1 - indicator(k - votes)
    return tuple(v * factor * used for v, (factor, *_) in zip(vectors, scalars, strict=True))


CONSENSUS = Transform(
    name="consensus",
    paper="Wang et al. 2024, Localizing task information, arXiv:2405.07813",
    knobs=(
        Knob("mask_lambda", "source", "float", 0.4, 0.0, (0.0, 10.0), (0.2, 0.6)),
        Knob("k", "recipe", "float", 2.0, 0.0, (0.0, 100.0), (0.0, 2.0)),
    ),
    coefficients=coefficients,
    kernel=kernel,
)
