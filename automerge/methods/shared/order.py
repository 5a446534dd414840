"""Order statistics of tensors that are at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def kth_largest(values: Tensor, k: int) -> Tensor:
    """Return the k-th largest value, k from 1, as a scalar that has no slopes."""
    flat = values.detach().reshape(-1)
    return flat.kthvalue(flat.numel() - k + 1).values
