"""Whole-tensor statistics, each computed once and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence

import torch
from torch import Tensor

BLOCK = 1 << 16
"""Elements worked on at once: what stays in a core's cache. No result depends on it but the last
bits of inner products."""

Key = tuple[str, ...]


class VectorStatistics:
    """Statistics of one tensor's vectors: task vectors when there is a base, else the sources.

    `read` gives a model's tensor, flat. What is computed goes into `kept`, which outlives this
    object: sorted magnitudes, inner products, sorted variances. `model_inner` is about all tensors.
    """

    def __init__(
        self,
        tensor: str,
        base: str | None,
        sources: Sequence[str],
        read: Callable[[str], Tensor],
        kept: MutableMapping[Key, Tensor],
        model_inner: Callable[[str, str], float],
    ) -> None:
        self._names = (tensor, base or "")
        self._base = base
        self._sources = sources
        self._read = read
        self._kept = kept
        self._model_inner = model_inner

    @property
    def count(self) -> int:
        return len(self._sources)

    @property
    def size(self) -> int:
        return self._read(self._sources[0]).numel()

    def inner(self, i: int, j: int) -> float:
        first, second = sorted((self._sources[i], self._sources[j]))
        key = ("inner", *self._names, first, second)
        if key not in self._kept:
            self._kept[key] = inner(self._vector(first), self._vector(second))
        return self._kept[key].item()

    def model_inner(self, i: int, j: int) -> float:
        return self._model_inner(self._sources[i], self._sources[j])

    def magnitude(self, i: int, k: int) -> float:
        source = self._sources[i]
        key = ("sorted", *self._names, source)
        if key not in self._kept:
            magnitudes = torch.cat([block.abs() for block in self._vector(source)])
            self._kept[key] = magnitudes.sort().values
        return self._kept[key][-k].item()

    @property
    def n_spread(self) -> int:
        return int(self._spread()[0].count_nonzero())

    def spread(self, k: int) -> float:
        return self._spread()[0][k - 1].item()

    def spread_energy(self, i: int, k: int) -> float:
        return self._spread()[1][i][k - 1].item()

    def _spread(self) -> tuple[Tensor, list[Tensor]]:
        """Variances over the vectors, falling, and each vector's sums of squares in that order."""
        keys = [
            (kind, *self._names, *self._sources)
            for kind in ("variance", *(f"energy {i}" for i in range(len(self._sources))))
        ]
        if keys[0] not in self._kept:
            vectors = [torch.cat(list(self._vector(s))) for s in self._sources]
            ordered = torch.stack(vectors).var(dim=0, correction=0).sort(descending=True)
            self._kept[keys[0]] = ordered.values
            for key, vector in zip(keys[1:], vectors, strict=True):
                self._kept[key] = vector[ordered.indices].double().square().cumsum(0)
        return self._kept[keys[0]], [self._kept[key] for key in keys[1:]]

    def _vector(self, source: str) -> Iterator[Tensor]:
        base = None if self._base is None else self._read(self._base)
        return vector(self._read(source), base)


def vector(source: Tensor, base: Tensor | None) -> Iterator[Tensor]:
    """A flat vector in blocks, in the precision kernels work in: source, or source − base."""
    for blocks in working_blocks([source] if base is None else [source, base]):
        yield blocks[0] - blocks[1] if len(blocks) == 2 else blocks[0]


def inner(left: Iterable[Tensor], right: Iterable[Tensor]) -> Tensor:
    """The inner product of two vectors in blocks, accumulated in float64."""
    total = torch.zeros((), dtype=torch.float64)
    for ours, theirs in zip(left, right, strict=True):
        total += torch.dot(ours.double(), theirs.double()).cpu()
    return total


def ranks(rows: Tensor) -> Tensor:
    """Ranks by magnitude within each row of a matrix, evenly from 0 to 1; 0.5 in rows of one."""
    n = rows.shape[1]
    spaced = torch.linspace(0, 1, n) if n > 1 else torch.tensor([0.5])
    order = rows.abs().argsort(dim=1, stable=True)
    return torch.empty(rows.shape).scatter_(1, order, spaced.expand(rows.shape))


def working_blocks(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Cut flat tensors of one size alike, in float32, or float64 where any of them is."""
    precision = working_precision(tensors)
    for start in range(0, tensors[0].numel(), BLOCK):
        yield [tensor[start : start + BLOCK].to(precision) for tensor in tensors]


def working_precision(tensors: Sequence[Tensor]) -> torch.dtype:
    """The precision merges are computed in, whatever they are stored in."""
    double = any(tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if double else torch.float32
