"""STAR: spectral truncation and rescaling of each task vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from automerge.methods.base import Knob, Operands, Statistics, Values, indicator
from automerge.methods.shared.matrices import directions, is_matrix, projected
from automerge.methods.transforms.base import Scalars, Transform

if TYPE_CHECKING:
    from torch import Tensor


def coefficients(
    values: Values, statistics: Statistics, weights: Sequence[float], factors: Sequence[float]
) -> Scalars:
    """Return the factor and η, per source."""
    return tuple(zip(factors, values.each["eta"], strict=True))


def prepare(operands: Operands) -> tuple[Tensor, ...]:
    """Return, per source, the singular vectors of its matrix's shorter side, and the values."""
    if not is_matrix(operands.anchor):
        return ()
    return tuple(part for vector in operands.task_vectors for part in directions(vector))


def kernel(operands: Operands, scalars: Scalars) -> tuple[Tensor, ...]:
    """Return truncated task vectors times a factor; tensors that are no matrices are not truncated.

    A recipe costs a few matrix products per tensor, and the first one an SVD per source in
    addition.
    """
    vectors = operands.task_vectors
    if is_matrix(operands.anchor):
        vectors = tuple(
            truncated(vector, operands.prepared[2 * i], operands.prepared[2 * i + 1], eta)
            for i, (vector, (_, eta)) in enumerate(zip(vectors, scalars, strict=True))
        )
    return tuple(v * factor for v, (factor, _) in zip(vectors, scalars, strict=True))


def truncated(matrix: Tensor, basis: Tensor, values: Tensor, eta: float) -> Tensor:
    """Keep the fewest singular values that sum to the share η of all, scaled to the full sum."""
    before = values.cumsum(-1) - values
    total = values.sum(-1, keepdim=True)
    kept = indicator(total * eta - before) * values
    factors = indicator(kept) * (total / (kept.sum(-1, keepdim=True) + (1 - indicator(total))))
    return projected(matrix, basis, factors[..., None, :])


STAR = Transform(
    name="star",
    paper="Lee et al. 2025, STAR, arXiv:2502.10339",
    knobs=(Knob("eta", "source", "float", 0.4, 1.0, (0.0, 1.0), (0.1, 0.9)),),
    coefficients=coefficients,
    kernel=kernel,
    prepare=prepare,
)
