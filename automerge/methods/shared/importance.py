"""How much elements of a source count: evidence, averages by it, and the shares that count most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from automerge.methods.base import Operands, indicator
from automerge.methods.shared.order import kth_largest
from automerge.methods.shared.sums import added

if TYPE_CHECKING:
    from torch import Tensor


def known(operands: Operands, kind: str) -> list[Tensor]:
    """Return every source's evidence in working precision; nothing if a source has none."""
    evidence = operands.evidence.get(kind, ())
    precision = operands.sources[0].dtype
    found = [tensor.to(precision) for tensor in evidence if tensor is not None]
    return found if len(found) == len(evidence) else []


def floored(importance: Tensor, floor: float) -> Tensor:
    """Return importances of at least `floor` times their mean."""
    return importance.maximum(importance.mean() * floor)


def largest(importance: Tensor, density: float) -> Tensor:
    """Return 1 for the share of elements of largest importance, else 0; nothing for density 0."""
    if density <= 0:
        return importance * 0
    n_kept = max(1, math.floor(density * importance.numel()))
    if n_kept == importance.numel():
        return importance * 0 + 1
    return 1 - indicator(kth_largest(importance, n_kept) - importance)


def weighted_average(
    sources: Sequence[Tensor], weights: Sequence[Tensor], plain: Sequence[float]
) -> Tensor:
    """Return Σ Wᵢ xᵢ / Σ Wᵢ per element; with `plain` weights where all W are 0.

    It is computed from differences to the first source, so equal sources stay as they are.
    """
    first, *others = sources
    moved = added([first * 0, *((x - first) * w for x, w in zip(others, weights[1:], strict=True))])
    total = added(weights)
    silent = 1 - indicator(added([w.abs() for w in weights]))
    pairs = zip(others, plain[1:], strict=True)
    averaged = added([first * 0, *((x - first) * w for x, w in pairs)]) / sum(plain)
    return first + moved / (total + silent) + averaged * silent
