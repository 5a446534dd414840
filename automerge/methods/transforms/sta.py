"""STA: only the elements of a task vector stay to which the source's own loss is sensitive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from automerge.methods.base import Operands, Statistics, Values, density
from automerge.methods.shared.importance import known, largest
from automerge.methods.transforms.base import Scalars, Transform

if TYPE_CHECKING:
    from torch import Tensor

NEEDED = "gradient"


def coefficients(
    values: Values, statistics: Statistics, weights: Sequence[float], factors: Sequence[float]
) -> Scalars:
    """Return the factor and the density, per source."""
    return tuple(zip(factors, values.each["density"], strict=True))


def kernel(operands: Operands, scalars: Scalars) -> tuple[Tensor, ...]:
    """Return task vectors times a factor, where |θᵢ gᵢ| is among the largest of its tensor.

    gᵢ is the gradient of the source's loss at θᵢ, so this is by how much the loss would change, to
    first order, if the element were 0. Of N, max(1, ⌊density N⌋) are kept, and equal ones stay
    together. All are kept in tensors without gradients.
    """
    vectors = operands.task_vectors
    gradients = known(operands, NEEDED)
    if gradients:
        triples = zip(vectors, operands.sources, gradients, strict=True)
        shares = [share for _, share in scalars]
        vectors = tuple(
            vector * largest((source * gradient).abs(), share)
            for (vector, source, gradient), share in zip(triples, shares, strict=True)
        )
    return tuple(v * factor for v, (factor, _) in zip(vectors, scalars, strict=True))


STA = Transform(
    name="sta",
    paper="Tian et al. 2024, Beyond task vectors: selective task arithmetic, arXiv:2411.16139",
    knobs=(density(),),
    coefficients=coefficients,
    kernel=kernel,
    needs=(NEEDED,),
)
