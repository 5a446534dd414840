"""Ranks by magnitude within rows, stored as whole numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NARROW = 1 << 16
"""Columns up to which 16 bits hold a rank."""


@dataclass(frozen=True)
class Ranks:
    """Ranks by magnitude within rows of `columns` elements, flat.

    `integers` count from 0; as numbers, ranks go from 0 to 1 in even steps, and are 0.5 in rows of
    one element.
    """

    integers: Tensor
    columns: int

    @property
    def first(self) -> float:
        """The rank of the least magnitude."""
        return 0.0 if self.columns > 1 else 0.5

    @property
    def step(self) -> float:
        """The distance between neighbouring ranks."""
        return 1 / (self.columns - 1) if self.columns > 1 else 0.0

    def cut(self, start: int, stop: int) -> Tensor:
        """Return the ranks of elements [start, stop), in float32."""
        return self.integers[start:stop].to(torch.float32) * self.step + self.first


def ranks_of(rows: Tensor) -> Tensor:
    """Rank each element by magnitude within its row, from 0; ties are in element order.

    Returns:
        uint16, or int32 for rows of more than `NARROW` columns.
    """
    order = rows.abs().argsort(dim=1, stable=True)
    numbers = torch.arange(rows.shape[1], dtype=torch.int32).expand(rows.shape)
    ranks = torch.empty(rows.shape, dtype=torch.int32).scatter_(1, order, numbers)
    return ranks.to(torch.uint16) if rows.shape[1] <= NARROW else ranks
