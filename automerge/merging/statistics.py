"""Whole-tensor statistics, each computed once and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence

import torch
from torch import Tensor

from automerge.checkpoints import Stored
from automerge.merging.order import Order, order

BLOCK = 1 << 15
"""Elements worked on at once: what stays in a core's cache, and less than PyTorch shares among its
threads. No result depends on it but the last bits of inner products."""

Key = tuple[object, ...]


class VectorStatistics:
    """Statistics of one tensor's vectors: task vectors when there is a base, else the sources.

    `read` gives a model's tensor, flat. What is computed goes into `kept` (inner products) and
    `orders` (of magnitudes and variances), which outlive this object. `model_inner` is about all
    tensors of the models named: base, one source, another.
    """

    def __init__(
        self,
        base: Stored | None,
        sources: Sequence[Stored],
        read: Callable[[Stored], Tensor],
        kept: MutableMapping[Key, Tensor],
        orders: MutableMapping[Key, Order],
        model_inner: Callable[[str | None, str, str], float],
    ) -> None:
        self._base = base
        self._sources = sources
        self._read = read
        self._kept = kept
        self._orders = orders
        self._model_inner = model_inner

    @property
    def count(self) -> int:
        return len(self._sources)

    @property
    def size(self) -> int:
        return self._read(self._sources[0]).numel()

    def inner(self, i: int, j: int) -> float:
        first, second = sorted((self._sources[i], self._sources[j]))
        key = ("inner", self._base, first, second)
        if key not in self._kept:
            self._kept[key] = inner(self._vector(first), self._vector(second))
        return self._kept[key].item()

    def model_inner(self, i: int, j: int) -> float:
        base = None if self._base is None else self._base.model
        return self._model_inner(base, self._sources[i].model, self._sources[j].model)

    def magnitude(self, i: int, k: int) -> float:
        source = self._sources[i]
        key = (self._base, source)
        if key not in self._orders:
            blocks = ((block.abs(),) for block in self._vector(source))
            self._orders[key] = order(blocks, self.size)
        return self._orders[key].value(k)

    @property
    def n_spread(self) -> int:
        return self._spread().n_positive

    def spread(self, k: int) -> float:
        return self._spread().value(k)

    def spread_energy(self, i: int, k: int) -> float:
        return self._spread().total(i, k)

    def _spread(self) -> Order:
        """Variances over the vectors, and the vectors' squares."""
        key = (self._base, tuple(self._sources))
        if key not in self._orders:
            vectors = zip(*(self._vector(source) for source in self._sources), strict=True)
            blocks = (
                (torch.stack(parts).var(dim=0, correction=0), *(part.square() for part in parts))
                for parts in vectors
            )
            self._orders[key] = order(blocks, self.size)
        return self._orders[key]

    def _vector(self, source: Stored) -> Iterator[Tensor]:
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
