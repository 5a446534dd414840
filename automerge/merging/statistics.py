"""Whole-tensor statistics, each computed once and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence

import torch
from torch import Tensor

BLOCK = 1 << 16
"""Elements worked on at once: what stays in a core's cache. No result depends on it but the last
bits of inner products."""

Key = tuple[str, ...]


class VectorStatistics:
    """Statistics of one tensor's vectors: task vectors when there is a base, else the sources.

    `read` gives a model's tensor, flat. What is computed goes into `kept`, which outlives this
    object: sorted magnitudes, and inner products.
    """

    def __init__(
        self,
        tensor: str,
        base: str | None,
        sources: Sequence[str],
        read: Callable[[str], Tensor],
        kept: MutableMapping[Key, Tensor],
    ) -> None:
        self._names = (tensor, base or "")
        self._base = base
        self._sources = sources
        self._read = read
        self._kept = kept

    @property
    def size(self) -> int:
        return self._read(self._sources[0]).numel()

    def inner(self, i: int, j: int) -> float:
        first, second = sorted((self._sources[i], self._sources[j]))
        key = ("inner", *self._names, first, second)
        if key not in self._kept:
            total = torch.zeros((), dtype=torch.float64)
            pairs = zip(self._vector(first), self._vector(second), strict=True)
            for left, right in pairs:
                total += torch.dot(left.double(), right.double()).cpu()
            self._kept[key] = total
        return self._kept[key].item()

    def magnitude(self, i: int, k: int) -> float:
        source = self._sources[i]
        key = ("sorted", *self._names, source)
        if key not in self._kept:
            magnitudes = torch.cat([block.abs() for block in self._vector(source)])
            self._kept[key] = magnitudes.sort().values
        return self._kept[key][-k].item()

    def _vector(self, source: str) -> Iterator[Tensor]:
        """One vector in blocks, in the precision kernels work in."""
        tensors = [self._read(source)]
        if self._base is not None:
            tensors.append(self._read(self._base))
        for blocks in working_blocks(tensors):
            yield blocks[0] - blocks[1] if len(blocks) == 2 else blocks[0]


def working_blocks(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Cut flat tensors of one size alike, in float32, or float64 where any of them is."""
    precision = working_precision(tensors)
    for start in range(0, tensors[0].numel(), BLOCK):
        yield [tensor[start : start + BLOCK].to(precision) for tensor in tensors]


def working_precision(tensors: Sequence[Tensor]) -> torch.dtype:
    """The precision merges are computed in, whatever they are stored in."""
    double = any(tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if double else torch.float32
