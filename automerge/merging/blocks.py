"""Flat tensors in blocks, in the precision merges are computed in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

BLOCK = 1 << 15
"""Elements worked on at once: they stay in a core's cache, and are fewer than PyTorch shares among
its threads. Only the last bits of inner products depend on it."""


def working_blocks(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Cut flat tensors of one size into the same blocks, in float32, or float64 if any is."""
    precision = working_precision(tensors)
    for start in range(0, tensors[0].numel(), BLOCK):
        yield [tensor[start : start + BLOCK].to(precision) for tensor in tensors]


def working_precision(tensors: Sequence[Tensor]) -> torch.dtype:
    """Return the precision that merges are computed in, whatever they are stored in."""
    double = any(tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if double else torch.float32


def spans(count: int, n_threads: int, longest: int) -> list[tuple[int, int]]:
    """Cut a tensor into pieces (start, stop), equally many per thread and of equal size.

    Pairs of 16-bit elements are read as one number, so every piece begins with a whole pair.
    """
    n = n_threads * max(1, -(-count // (n_threads * max(longest, 1))))
    size = -(-count // (2 * n)) * 2
    return [(start, min(start + size, count)) for start in range(0, count, size or 1)]
