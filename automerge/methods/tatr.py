"""Task arithmetic in a trust region: no element moves that another task is sensitive to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automerge.methods.base import (
    Coefficients,
    Knob,
    Method,
    Operands,
    Statistics,
    Values,
    indicator,
    scaling,
    weight,
)
from automerge.methods.shared.importance import known
from automerge.methods.shared.order import kth_largest
from automerge.methods.shared.scaled import scaled_weights
from automerge.methods.shared.sums import added, weighted_sum

if TYPE_CHECKING:
    from torch import Tensor

NEEDED = "base_gradient"


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return λ times the weights, and the share of elements that may not move."""
    del statistics
    each = tuple((w,) for w in scaled_weights(values))
    return Coefficients(each=each, shared=(values.number["ratio"],))


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return θ₀ + λ Σ wᵢ m τᵢ, m being 0 where Ω = Σ over k ≠ i of |gₖ| |τᵢ| is largest, else 1.

    g are gradients of the tasks' losses at the base (Sun et al. 2025, sec. 4). A share `ratio` of
    a tensor's elements has m = 0; equal Ω stay together. Tensors without gradients are added.
    """
    (ratio,) = scalars.shared
    vectors = operands.task_vectors
    summed = weighted_sum(vectors, scalars.each)
    gradients = known(operands, NEEDED)
    n_dropped = int(ratio * summed.numel())
    if not gradients or not n_dropped:
        return operands.anchor + summed
    sizes = [gradient.abs() for gradient in gradients]
    total = added(sizes)
    pairs = zip(vectors, sizes, strict=True)
    sensitivity = added([vector.abs() * (total - own) for vector, own in pairs])
    most = kth_largest(sensitivity, min(n_dropped + 1, sensitivity.numel()))
    return operands.anchor + summed * (1 - indicator(sensitivity - most))


TATR = Method(
    name="tatr",
    paper="Sun et al. 2025, Task arithmetic in trust region, arXiv:2501.15065",
    knobs=(
        weight(),
        Knob("ratio", "recipe", "float", 0.01, 0.0, (0.0, 1.0), (0.0, 0.2)),
        scaling((0.5, 2.0)),
    ),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
    compares=True,
    extent="tensor",
    needs=(NEEDED,),
)
