"""A model whose embedding and head are presented with the rows of another vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from automerge.checkpoints import low_rank
from automerge.checkpoints.low_rank import LowRank
from automerge.checkpoints.reader import Checkpoint
from automerge.checkpoints.safetensors_file import TensorInfo

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ABSENT = -1


@dataclass(frozen=True)
class Rows:
    """Each model's row for each row of the result; ABSENT if it has no such row."""

    base: str
    of: Mapping[str, tuple[int, ...]]

    def fill(self, model: str, read: Callable[[str], Tensor]) -> Tensor:
        """Return one model's tensor with the result's rows; `read` returns a model's own tensor.

        A row that the model lacks is the base's, else the mean over the models that have it. Rows
        that no model has are the mean of the base's rows, so that their logit is never the largest.
        """
        import torch

        mine = read(model)
        rows = self._index(model)
        filled = mine[rows.clamp_min(0)]
        lacking = rows == ABSENT
        if not lacking.any():
            return filled
        base, base_rows = read(self.base), self._index(self.base)
        from_base = lacking & (base_rows != ABSENT)
        filled[from_base] = base[base_rows[from_base]].to(mine.dtype)
        rest = lacking & ~from_base
        if rest.any():
            total = torch.zeros((int(rest.sum()), *mine.shape[1:]), dtype=torch.float64)
            owners = torch.zeros((len(total), *(1 for _ in mine.shape[1:])), dtype=torch.float64)
            for name in self.of:
                theirs = self._index(name)[rest]
                has = theirs != ABSENT
                total[has] += read(name)[theirs[has]].double()
                owners[has] += 1
            nobody = owners.flatten() == 0
            total[nobody] = base.double().mean(dim=0)
            filled[rest] = (total / owners.clamp_min(1)).to(mine.dtype)
        return filled

    def _index(self, model: str) -> torch.Tensor:
        import torch

        return torch.tensor(self.of[model])


@dataclass(frozen=True)
class Group:
    """Models as they are stored, and how the result presents them.

    `rows` is None if rows stay as they are. `indexed` are the tensors with a row per token.
    `spelled` maps, by model, a tensor's name to its name in the model: a tied head is its
    embedding. `dropped` are heads that are tied in the result.
    """

    models: Mapping[str, Checkpoint]
    rows: Rows | None
    n_rows: int
    indexed: tuple[str, ...]
    spelled: Mapping[str, Mapping[str, str]]
    dropped: tuple[str, ...]


class AlignedCheckpoint:
    """One model of a group, with the rows, configuration and tokenizer of the result.

    Everything else is the model's own: tensors that differ in other ways still differ.
    """

    def __init__(self, name: str, group: Group, config: Mapping[str, Any], assets: Path) -> None:
        model = group.models[name]
        self.path = model.path
        self.assets = assets
        self.config = config
        self._name = name
        self._group = group
        stored = dict(model.tensors)
        stored |= {new: stored[old] for new, old in group.spelled[name].items()}
        self.tensors: Mapping[str, TensorInfo] = {
            tensor: replace(info, shape=(group.n_rows, *info.shape[1:]))
            if tensor in group.indexed
            else info
            for tensor, info in stored.items()
            if tensor not in group.dropped
        }

    def read(self, name: str) -> Tensor:
        group = self._group

        def stored(model: str) -> Tensor:
            return group.models[model].read(group.spelled[model].get(name, name))

        if group.rows is not None and name in group.indexed:
            return group.rows.fill(self._name, stored)
        return stored(self._name)

    def rearranged(self, name: str) -> bool:
        """Return whether a tensor is computed when it is read.

        It is if its rows are rearranged, or if the model itself computes it.
        """
        return self._moved(name) or rearranged(self._group.models[self._name], self._own(name))

    def _moved(self, name: str) -> bool:
        return self._group.rows is not None and name in self._group.indexed

    def _own(self, name: str) -> str:
        return self._group.spelled[self._name].get(name, name)

    def update(self, name: str) -> LowRank | None:
        """Return a tensor's factors if it is stored as such and has the model's own rows."""
        if self._moved(name):
            return None
        return low_rank.update(self._group.models[self._name], self._own(name))


@runtime_checkable
class RearrangedCheckpoint(Protocol):
    """A checkpoint with tensors that are computed whenever they are read."""

    def rearranged(self, name: str) -> bool:
        """Return whether a tensor is one of these; low-rank updates do not count."""


def rearranged(checkpoint: Checkpoint, name: str) -> bool:
    """Return whether a tensor is computed when it is read, other than as a low-rank update."""
    if not _rearranges(type(checkpoint)):
        return False
    return cast(RearrangedCheckpoint, checkpoint).rearranged(name)


@cache
def _rearranges(kind: type) -> bool:
    return issubclass(kind, RearrangedCheckpoint)


def rows_of(
    wanted: Mapping[str, int], own: Mapping[str, int], stored: int, n_rows: int
) -> tuple[int, ...]:
    """Return a model's row for each row of the result.

    A row of the result without a token is the model's same row if that has no token either, so that
    padding stays padding.

    Args:
        wanted: the ids of the result's tokens.
        own: the ids of the model's tokens.
        stored: the number of rows the model has.
        n_rows: the number of rows of the result.
    """
    rows = [ABSENT] * n_rows
    taken = {*own.values(), *wanted.values()}
    for i in range(min(stored, n_rows)):
        if i not in taken:
            rows[i] = i
    for token, i in wanted.items():
        if i < n_rows and token in own:
            rows[i] = own[token]
    return tuple(rows)
