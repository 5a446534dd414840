"""How far one tensor is from another."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 1 << 20
"""Elements converted to float32 at a time, so that they stay in the cache."""


def squared_norms(tensor: Tensor, reference: Tensor) -> tuple[float, float]:
    """Return the squared norms of `tensor` - `reference` and of `reference`, summed in float64."""
    moved = size = 0.0
    flat = tensor.detach().reshape(-1), reference.reshape(-1)
    for start in range(0, len(flat[1]), BLOCK):
        own, other = (part[start : start + BLOCK].to("cpu", torch.float32) for part in flat)
        difference = own - other
        moved += float(torch.dot(difference, difference))
        size += float(torch.dot(other, other))
    return moved, size
