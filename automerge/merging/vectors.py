"""Task vectors in blocks, and their inner products."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from automerge.machine.processors import one_thread
from automerge.merging.blocks import working_blocks


def vector(source: Tensor, base: Tensor | None) -> Iterator[Tensor]:
    """Yield a flat vector in blocks, in working precision: source, or source − base."""
    for blocks in working_blocks([source] if base is None else [source, base]):
        yield blocks[0] - blocks[1] if len(blocks) == 2 else blocks[0]


def inner(left: Iterable[Tensor], right: Iterable[Tensor]) -> Tensor:
    """Return the inner product of two vectors in blocks, accumulated in float64."""
    total = torch.zeros((), dtype=torch.float64)
    with one_thread():
        for ours, theirs in zip(left, right, strict=True):
            total += torch.dot(ours.double(), theirs.double()).cpu()
    return total
