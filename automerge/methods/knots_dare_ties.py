"""DARE and TIES in the basis that the task vectors share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automerge.methods.base import (
    Coefficients,
    Method,
    Operands,
    Statistics,
    Values,
    density,
    indicator,
    normalize,
    scaling,
    weight,
)
from automerge.methods.shared.aligned import aligned, elected, prepare
from automerge.methods.shared.election import ballot
from automerge.methods.transforms.dare import rescaled

if TYPE_CHECKING:
    from torch import Tensor


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return wᵢ, wᵢ / densityᵢ and densityᵢ per source, and λ."""
    pairs = zip(values.each["weight"], values.each["density"], strict=True)
    return ballot(values, [(rescaled(w, share), share) for w, share in pairs])


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return base + λ U TIES(m₁ Σ V₁ᵀ / density₁, …), mᵢ random masks.

    Tensors that are no matrices are merged by `dare_ties`.
    """
    found = aligned(operands)
    rows = found.parts[0].shape
    weighted = [
        part * (indicator(share - within(uniform, rows)) * factor)
        for part, uniform, (_, factor, share) in zip(
            found.parts, operands.uniforms, scalars.each, strict=True
        )
    ]
    return elected(operands, found.basis, weighted, scalars)


def within(uniform: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return as many rows of random numbers as there are directions, the first ones."""
    return uniform if uniform.shape == shape else uniform[..., : shape[-2], :]


KNOTS_DARE_TIES = Method(
    name="knots_dare_ties",
    paper="Stoica et al. 2024, Model merging with SVD to tie the KnOTS, arXiv:2410.19735",
    knobs=(weight(), density(), scaling((0.5, 2.0)), normalize(True)),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
    compares=True,
    seeded=True,
    extent="tensor",
    prepare=prepare,
)
