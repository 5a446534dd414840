"""Weights from how far each source moved a tensor (VaRM)."""

from __future__ import annotations

from collections.abc import Sequence

from automerge.methods.base import Coefficients, Method, Statistics, Values, scaling, weight
from automerge.methods.task_arithmetic import kernel


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """λ wᵢ ‖τᵢ‖² / Σ |wₖ| ‖τₖ‖², per tensor; FuseChat's equation is that of equal weights.

    A mean of squares is ‖τ‖² over the tensor's size, which cancels.
    """
    weights = values.each["weight"]
    squares = [statistics.inner(i, i) for i in range(len(weights))]
    return Coefficients(each=shares(weights, squares, values.number["lambda"]))


def shares(
    weights: Sequence[float], squares: Sequence[float], scale: float
) -> tuple[tuple[float], ...]:
    """Weighted shares of a sum of squares; 0 where there is nothing to share."""
    total = sum(abs(w) * s for w, s in zip(weights, squares, strict=True))
    return tuple(
        (scale * w * s / total if total != 0 else 0.0,)
        for w, s in zip(weights, squares, strict=True)
    )


VARM = Method(
    name="varm",
    paper="Wan et al. 2024, FuseChat, arXiv:2402.16107",
    knobs=(weight(), scaling((0.5, 2.0))),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
    statistics=("gram",),
)
