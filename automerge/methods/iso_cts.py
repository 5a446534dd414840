"""Isotropic merging in common and task-specific subspaces."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from automerge.methods.base import (
    Coefficients,
    Knob,
    Method,
    Operands,
    Statistics,
    Values,
    scaling,
    weight,
)
from automerge.methods.shared.core import prepare, reduced
from automerge.methods.shared.matrices import is_matrix, isotropic, joined, mean, polar, svd
from automerge.methods.shared.scaled import scaled_weights
from automerge.methods.shared.sums import added

if TYPE_CHECKING:
    from torch import Tensor


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return λ times the weights, λ the paper's α, and the share of the common subspace."""
    return Coefficients(
        each=tuple((w,) for w in scaled_weights(values)), shared=(values.number["common"],)
    )


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return base + what `subspaces` makes of the weighted task vectors; vectors are averaged.

    Costs 3 + n SVDs per tensor and recipe for n sources, as the weights change them: of small
    matrices, if the task vectors have low rank.
    """
    (common,) = scalars.shared
    if is_matrix(operands.anchor):
        core = reduced(operands, scalars)
        weighted = [v * w for v, (w,) in zip(core.matrices, scalars.each, strict=True)]
        u, values, vt = subspaces(weighted, common, min(operands.anchor.shape[-2:]))
        merged = core.whole(isotropic(polar(u), values, polar(vt)))
    else:
        merged = mean(operands.task_vectors, scalars.each)
    return operands.anchor + merged


def subspaces(matrices: list[Tensor], common: float, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sum's leading singular triplets, then equally many of what each matrix adds.

    There are `rank` in all, or as many as the matrices have.

    What a matrix adds is its part orthogonal to the leading left vectors. As in the paper's
    algorithm 1, the common part grows or shrinks until each matrix gets the same number of
    triplets.
    """
    count = len(matrices)
    n_own = min(round((rank - int(rank * common)) / count), rank // count)
    n_common = rank - n_own * count
    u, values, vt = svd(added(matrices))
    leading = u[..., :n_common]
    parts = [(leading, values[..., :n_common], vt[..., :n_common, :])]
    for matrix in matrices:
        size = matrix.norm(dim=(-2, -1))[..., None]
        u, values, vt = svd(matrix - leading @ (leading.mT @ matrix), size)
        parts.append((u[..., :n_own], values[..., :n_own], vt[..., :n_own, :]))
    return (
        joined([u for u, _, _ in parts], -1),
        joined([values for _, values, _ in parts], -1),
        joined([vt for _, _, vt in parts], -2),
    )


ISO_CTS = Method(
    name="iso_cts",
    paper="Marczak et al. 2025, No task left behind, arXiv:2502.04959",
    knobs=(
        # Its rank-deficient SVDs have no derivative, and all knobs but `common` come before them.
        replace(weight(), smooth=False),
        Knob("common", "recipe", "float", 0.8, 1.0, (0.0, 1.0), (0.5, 1.0)),
        replace(scaling((0.5, 2.0)), smooth=False),
    ),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
    extent="tensor",
    prepare=prepare,
)
