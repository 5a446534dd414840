"""Matrices stored as a low-rank change of another: base + scale · up · down (LoRA)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

from automerge.machine.processors import one_thread

if TYPE_CHECKING:
    from torch import Tensor

    from automerge.checkpoints.reader import Checkpoint

BLOCK = 1 << 17
"""The number of elements computed at once: what fits into a core's cache."""


@dataclass(frozen=True)
class LowRank:
    """An (m, n) matrix over its base's: `up` is (m, r), `down` (r, n), in their stored dtypes."""

    base: Tensor
    up: Tensor
    down: Tensor
    scale: float

    def whole(self) -> Tensor:
        """Return the matrix itself, in its base's dtype."""
        import torch

        matrix = torch.empty(self.base.shape, dtype=self.base.dtype)
        write_sum(matrix, [(1.0, self.base)], [(1.0, self)])
        return matrix


@runtime_checkable
class LowRankCheckpoint(Protocol):
    """A checkpoint with some tensors stored as low-rank updates."""

    def update(self, name: str) -> LowRank | None:
        """Return a tensor's factors without multiplying them; None if it is stored whole."""


def update(checkpoint: Checkpoint, name: str) -> LowRank | None:
    """Return a tensor's factors; None if it, or every tensor of the checkpoint, is stored whole."""
    if not _stores_updates(type(checkpoint)):
        return None
    return cast(LowRankCheckpoint, checkpoint).update(name)


@cache  # Asked for every tensor of every merge; Python 3.11 takes long to compare with a protocol.
def _stores_updates(kind: type) -> bool:
    return issubclass(kind, LowRankCheckpoint)


def write_sum(
    target: Tensor, whole: Sequence[tuple[float, Tensor]], updates: Sequence[tuple[float, LowRank]]
) -> None:
    """Overwrite a matrix with Σ c x + Σ c scale · up · down; the updates' bases are not added.

    All updates are a single product of concatenated factors, added to one block of rows at a time,
    so that no other matrix of this size is allocated. Computed in float32 (float64 if any x is) and
    rounded once.

    Args:
        target: the (m, n) matrix to write.
        whole: pairs (c, x) of a factor and an (m, n) matrix.
        updates: pairs (c, update) of a factor and a low-rank matrix; at least one.
    """
    import torch

    wide = any(x.dtype == torch.float64 for _, x in whole)
    precision = torch.float64 if wide else torch.float32
    up = torch.cat([u.up.to(precision) * (c * u.scale) for c, u in updates], dim=1)
    down = torch.cat([u.down.to(precision) for _, u in updates])
    rows = max(1, BLOCK // target.shape[1])
    with one_thread():
        for start in range(0, target.shape[0], rows):
            block = slice(start, start + rows)
            total = torch.mm(up[block], down)
            for c, x in whole:
                total.add_(x[block].to(precision), alpha=c)
            target[block] = total
