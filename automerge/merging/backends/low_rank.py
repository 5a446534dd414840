"""Merges of models that are stored as low-rank updates of others, such as LoRA adapters."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from torch import Tensor

from automerge.checkpoints import LowRank as Update
from automerge.checkpoints import write_sum
from automerge.merging.backends.base import TensorMerge, is_finite
from automerge.merging.combination import Combination, combination


@dataclass(frozen=True)
class Sum:
    """A merge that is Σ c x + Σ c scale · up · down.

    `whole` has pairs (c, x) of matrices that are different in memory, `updates` pairs (c, update),
    whose bases are among `whole` already.
    """

    whole: tuple[tuple[float, Tensor], ...]
    updates: tuple[tuple[float, Update], ...]


def as_sum(merge: TensorMerge) -> Sum | None:
    """Return a tensor's merge as a sum; None for a method that does more than add and scale."""
    step, workspace = merge.step, merge.workspace
    updates = {origin: workspace.update(origin) for origin in step.origins}
    whole: dict[int, Tensor] = {}
    symbols = []
    for origin, update in updates.items():
        flat = workspace.tensor(origin) if update is None else update.base
        # An update's base and the recipe's are the same operand: they share memory.
        whole.setdefault(flat.data_ptr(), flat.reshape(step.info.shape))
        factors: dict[Hashable, float] = {flat.data_ptr(): 1.0}
        if update is not None:
            factors[origin] = 1.0
        symbols.append(Combination(factors))
    base, sources = (None, symbols) if step.base is None else (symbols[0], symbols[1:])
    found = combination(merge.method, merge.scalars, base, sources)
    if found is None:
        return None
    return Sum(
        tuple((found.factors[pointer], tensor) for pointer, tensor in whole.items()),
        tuple((found.factors[o], update) for o, update in updates.items() if update is not None),
    )


class LowRank:
    """Adds low-rank updates to what they change, for methods that only add and scale.

    Such a method computes Σ c x over its operands, so updates B A are added as factors, and no
    adapter is ever multiplied out whole.
    """

    def run(self, target: Tensor, merge: TensorMerge) -> bool | None:
        step, workspace = merge.step, merge.workspace
        if all(workspace.update(origin) is None for origin in step.origins):
            return None
        found = as_sum(merge)
        if found is None:
            return None
        write_sum(target.view(step.info.shape), found.whole, found.updates)
        return is_finite(target)
