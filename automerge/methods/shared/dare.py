"""Drop and rescale: what both DARE methods share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from automerge.methods.base import Operands, indicator

if TYPE_CHECKING:
    from torch import Tensor


def rescaled(weight: float, density: float) -> float:
    """Return the factor on the elements that a density keeps: 1/density, as in the paper.

    mergekit divides by the share of the L1 norm that was kept instead.
    """
    return weight / density if density > 0 else 0.0


def dropped(operands: Operands, scalars: Iterable[tuple[float, ...]]) -> tuple[Tensor, ...]:
    """Return task vectors times a factor, keeping elements whose uniform is below a density.

    `scalars` are factor and density, per source. Uniforms do not depend on the density, so a
    smaller density keeps a subset.
    """
    return tuple(
        vector * (indicator(density - uniform) * factor)
        for vector, uniform, (factor, density) in zip(
            operands.task_vectors, operands.uniforms, scalars, strict=True
        )
    )
