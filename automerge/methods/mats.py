"""MaTS: RegMean's linear system, solved only as far as a few conjugate gradient steps go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automerge.methods.base import Coefficients, Knob, Method, Operands, Statistics, Values, weight
from automerge.methods.shared.importance import known
from automerge.methods.shared.sums import added, weighted_sum

if TYPE_CHECKING:
    from torch import Tensor

NEEDED = "input_gram"
ROUNDING = 2.0**-24
"""Unit roundoff of float32: a rounded Gram matrix is off by at most this share of its norm."""
ITERATIONS = Knob("iterations", "recipe", "float", 10.0, 0.0, (0.0, 1000.0), (0.0, 50.0))


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return the weights and the number of iterations, rounded down."""
    del statistics
    shares = tuple((w,) for w in values.each["weight"])
    return Coefficients(each=shares, shared=(float(int(values.number["iterations"])),))


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Approach W with W Σ wᵢ Gᵢ = Σ wᵢ Wᵢ Gᵢ from the weighted average (Tam et al. 2024, eq. 5).

    G are Gram matrices of the inputs, C in the paper for its RegMean objective, W is (out, in).
    Each step of the conjugate gradient method (Hestenes & Stiefel 1952) moves all rows together.
    It ends early along a direction in which the inputs vary less than float32 rounds their Gram
    matrices: of fewer inputs than it has columns, a matrix is singular, and steps go on into noise.
    Computed in float64. Tensors without Gram matrices are averaged.
    """
    grams = known(operands, NEEDED)
    shares = [w for (w,) in scalars.each]
    average = weighted_sum(operands.sources, scalars.each) / sum(shares)
    if average.ndim != 2 or not grams:
        return average
    systems = [gram.double() * w for gram, w in zip(grams, shares, strict=True)]
    total = added(systems)
    start = average.double()
    pairs = zip(operands.sources, systems, strict=True)
    # The right-hand side less what the start gives, from differences: equal sources give 0.
    residual = added([(x.double() - start) @ system for x, system in pairs])
    return _solved(start, residual, total, int(scalars.shared[0])).to(average.dtype)


def _solved(merged: Tensor, residual: Tensor, total: Tensor, iterations: int) -> Tensor:
    import torch

    direction = residual
    squared = (residual * residual).sum()
    first = squared.detach()
    noise = ROUNDING * torch.linalg.matrix_norm(total).detach()
    for _ in range(iterations):
        if not squared > first * 1e-24:
            break
        image = direction @ total
        curvature = (direction * image).sum()
        if not curvature > noise * (direction * direction).sum():
            break
        step = squared / curvature
        merged = merged + direction * step
        residual = residual - image * step
        before, squared = squared, (residual * residual).sum()
        direction = residual + direction * (squared / before)
    return merged


MATS = Method(
    name="mats",
    paper="Tam et al. 2024, Merging by matching models in task parameter subspaces, "
    "arXiv:2312.04339",
    knobs=(weight(), ITERATIONS),
    coefficients=coefficients,
    kernel=kernel,
    anchored=False,
    extent="tensor",
    needs=(NEEDED,),
)
