"""Order statistics of non-negative numbers: exact for small tensors, else from a histogram."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

EXACT = 1 << 20
"""Number of elements up to which numbers are sorted. Beyond it, sorting takes seconds per tensor,
and keeping the sorted numbers takes twice the memory of the model."""
SHIFT = 15
N_BINS = 1 << 16
"""A bin is the first 16 bits of a float32 after the sign: 256 bins per power of two, so a threshold
is within 0.4 % of the exact one, and much closer by interpolation within its bin."""


class Order(Protocol):
    """Numbers from the largest down, and sums of other numbers in that order."""

    @property
    def n_positive(self) -> int:
        """How many are not 0."""

    def value(self, k: int) -> float:
        """Return the k-th largest number, k from 1."""

    def total(self, i: int, k: int) -> float:
        """Return the sum of the i-th other number over the k largest."""


@dataclass(frozen=True)
class Sorted:
    """All numbers in ascending order, and cumulative sums in float64 from the largest down."""

    values: Tensor
    sums: tuple[Tensor, ...] = ()

    @property
    def n_positive(self) -> int:
        return int(self.values.count_nonzero())

    def value(self, k: int) -> float:
        return self.values[-k].item()

    def total(self, i: int, k: int) -> float:
        return self.sums[i][k - 1].item()


@dataclass(frozen=True)
class Binned:
    """Cumulative counts and sums of `N_BINS` bins, the largest numbers' bin first. Sums and the
    number of `zeros` are there only if they were asked for."""

    counts: Tensor
    sums: tuple[Tensor, ...] = ()
    zeros: int = 0

    @property
    def n_positive(self) -> int:
        return int(self.counts[-1]) - self.zeros

    def value(self, k: int) -> float:
        at, share = self._find(k)
        high, low = struct.unpack(
            "2f", struct.pack("2I", *(n << SHIFT for n in (N_BINS - at, N_BINS - 1 - at)))
        )
        return float(high - share * (high - low))

    def total(self, i: int, k: int) -> float:
        at, share = self._find(k)
        before = self.sums[i][at - 1].item() if at else 0.0
        return float(before + share * (self.sums[i][at].item() - before))

    def _find(self, k: int) -> tuple[int, float]:
        """Return the bin that holds the k-th largest, and the share of the bin down to it."""
        at = int(np.searchsorted(self.counts.numpy(), k))
        before = int(self.counts[at - 1]) if at else 0
        return at, (k - before) / (int(self.counts[at]) - before)


@dataclass(frozen=True)
class Signed:
    """Numbers of both signs, `size` in all: the orders of their positive and negative parts."""

    above: Order
    below: Order
    size: int

    def value(self, k: int) -> float:
        """Return the k-th largest number, k from 1."""
        if k <= self.above.n_positive:
            return self.above.value(k)
        rank = self.size + 1 - k
        return -self.below.value(rank) if rank <= self.below.n_positive else 0.0


def orders(blocks: Iterable[Sequence[Tensor]], size: int, count: int) -> list[Order]:
    """Order `count` columns of non-negative numbers that come in blocks, in one pass."""
    if size <= EXACT:
        columns = list(zip(*blocks, strict=True)) or [()] * count
        return [order([(torch.cat(column),)], size) for column in columns]
    counts = torch.zeros((count, N_BINS), dtype=torch.int64)
    zeros = [0] * count
    for numbers in blocks:
        for column, block in enumerate(numbers):
            counts[column] += torch.bincount(_bins(block), minlength=N_BINS)
            zeros[column] += int((block == 0).sum())
    return [Binned(counts[i].cumsum(0), (), zeros[i]) for i in range(count)]


def _bins(numbers: Tensor) -> Tensor:
    return N_BINS - 1 - (numbers.float().contiguous().view(torch.int32) >> SHIFT)


def order(blocks: Iterable[tuple[Tensor, ...]], size: int) -> Order:
    """Order numbers that come in blocks, each with the other numbers to sum."""
    if size <= EXACT:
        columns = list(zip(*blocks, strict=True))
        if len(columns) == 1:
            # NumPy sorts plain numbers ten times as fast as PyTorch.
            pieces = [block.numpy() for block in columns[0]]
            rising = np.sort(pieces[0] if len(pieces) == 1 else np.concatenate(pieces))
            return Sorted(torch.from_numpy(rising))
        parts = [torch.cat(column) for column in columns]
        ordered = parts[0].sort(descending=True, stable=True)
        return Sorted(
            ordered.values.flip(0),
            tuple(part[ordered.indices].double().cumsum(0) for part in parts[1:]),
        )
    counts = torch.zeros(N_BINS, dtype=torch.int64)
    sums: list[Tensor] = []
    zeros = 0
    for numbers, *others in blocks:
        bins = _bins(numbers)
        counts += torch.bincount(bins, minlength=N_BINS)
        zeros += int((numbers == 0).sum())
        sums = sums or [torch.zeros(N_BINS, dtype=torch.float64) for _ in others]
        for total, other in zip(sums, others, strict=True):
            total += torch.bincount(bins, other.double(), minlength=N_BINS)
    return Binned(counts.cumsum(0), tuple(total.cumsum(0) for total in sums), zeros)
