"""DARE: random elements of a task vector are dropped, and the others rescaled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from automerge.methods.base import Operands, Statistics, Values, density, indicator
from automerge.methods.transforms.base import Scalars, Transform

if TYPE_CHECKING:
    from torch import Tensor


def rescaled(weight: float, density: float) -> float:
    """Return the factor on the elements that a density keeps: 1/density, as in the paper.

    mergekit divides by the share of the L1 norm that was kept instead.
    """
    return weight / density if density > 0 else 0.0


def coefficients(
    values: Values, statistics: Statistics, weights: Sequence[float], factors: Sequence[float]
) -> Scalars:
    """Return the factor divided by the density, and the density, per source."""
    pairs = zip(factors, values.each["density"], strict=True)
    return tuple((rescaled(factor, share), share) for factor, share in pairs)


def kernel(operands: Operands, scalars: Scalars) -> tuple[Tensor, ...]:
    """Return task vectors times a factor, keeping elements whose uniform is below the density.

    Uniforms do not depend on the density, so a smaller density keeps a subset.
    """
    return tuple(
        vector * (indicator(density - uniform) * factor)
        for vector, uniform, (factor, density) in zip(
            operands.task_vectors, operands.uniforms, scalars, strict=True
        )
    )


DARE = Transform(
    name="dare",
    paper="Yu et al. 2024, Language models are super Mario, arXiv:2311.03099",
    knobs=(density(),),
    coefficients=coefficients,
    kernel=kernel,
    seeded=True,
)
