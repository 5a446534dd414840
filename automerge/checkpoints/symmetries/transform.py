"""Permutations and rotations of a model's parts, as values, and what they make of a tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from automerge.checkpoints.symmetries.roles import (
    KEY,
    OUTPUT,
    QUERY,
    UNITS,
    VALUE,
    Axes,
    Group,
    Part,
    Shapes,
)
from automerge.machine.processors import one_thread

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Heads:
    """What is done with the heads of one layer.

    Attributes:
        queries: the source's query head at each place, (heads,); those that share a key head stay
            together.
        keys: the source's key head at each place, (key heads,).
        turns: what its queries and keys are multiplied by on the left, orthogonal, (key heads,
            head size, head size), float32; None for nothing.
        values: the same for its values and outputs.
    """

    queries: Tensor
    keys: Tensor
    turns: Tensor | None = None
    values: Tensor | None = None


@dataclass(frozen=True)
class Transform:
    """An alignment: at each place, which of the source's entries stands there, and rotations.

    Attributes:
        stream: (width,).
        heads: by layer.
        units: by layer and expert, (units,).
    """

    stream: Tensor
    heads: Mapping[int, Heads] = field(default_factory=dict)
    units: Mapping[tuple[int, str], Tensor] = field(default_factory=dict)

    def plain(self) -> dict[str, Tensor]:
        """Return the values by name, as they are stored; `from_plain` inverts it."""
        plain = {"stream": self.stream}
        for layer, heads in self.heads.items():
            given = {n: tensor for n, tensor in vars(heads).items() if tensor is not None}
            plain |= {f"{layer}.heads.{n}": tensor for n, tensor in given.items()}
        for (layer, expert), order in self.units.items():
            plain[f"{layer}.units.{expert}"] = order
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Tensor]) -> Transform:
        """Invert `plain`."""
        heads: dict[int, dict[str, Tensor]] = {}
        units: dict[tuple[int, str], Tensor] = {}
        for name, tensor in plain.items():
            layer, _, rest = name.partition(".")
            kind, _, last = rest.partition(".")
            if kind == "heads":
                heads.setdefault(int(layer), {})[last] = tensor
            elif kind == "units":
                units[int(layer), last] = tensor
        return cls(
            plain["stream"],
            {layer: Heads(**own) for layer, own in sorted(heads.items())},
            dict(sorted(units.items())),
        )

    def rotates(self, axes: Axes) -> bool:
        """Return whether any part of a tensor is rotated, not only put in another order."""
        return any(self._rotation(part.group) is not None for axis in axes for part in axis)

    def moves(self, axes: Axes, shapes: Shapes) -> bool:
        """Return whether a tensor with these axes is changed."""
        import torch

        return self.rotates(axes) or any(
            not torch.equal(order, torch.arange(len(order)))
            for axis in axes
            for part in axis
            if (order := self.order(part.group, shapes)) is not None
        )

    def apply(self, tensor: Tensor, axes: Axes, shapes: Shapes) -> Tensor:
        """Return the source's tensor as it is presented; computed in float32 where it is rotated,
        on one thread, and rounded once."""
        import torch

        made = tensor
        for number, axis in enumerate(axes):
            index = torch.arange(tensor.shape[number])
            for part in axis:
                if (order := self.order(part.group, shapes)) is not None:
                    if part.entries is None:
                        index = order
                    else:
                        entries = torch.tensor(part.entries)
                        index[entries] = entries[order]
            if not torch.equal(index, torch.arange(len(index))):
                made = made.index_select(number, index)
        if self.rotates(axes):
            wide = made.to(torch.promote_types(made.dtype, torch.float32))
            with one_thread():
                for number, axis in enumerate(axes):
                    for part in axis:
                        wide = self._turned(wide, number, part)
            made = wide.to(tensor.dtype)
        return made

    def order(self, group: Group, shapes: Shapes) -> Tensor | None:
        """Return which of the source's entries stands at each place; None if none moves."""
        if group.layer is None:
            return self.stream
        if group.role == UNITS:
            return self.units.get((group.layer, group.expert))
        heads = self.heads.get(group.layer)
        if heads is None:
            return None
        whole = heads.queries if group.role in (QUERY, OUTPUT) else heads.keys
        return blocks(whole, shapes.head_size)

    def _rotation(self, group: Group) -> Tensor | None:
        heads = self.heads.get(group.layer) if group.layer is not None else None
        if heads is None:
            return None
        if group.role in (QUERY, KEY):
            return heads.turns
        return heads.values if group.role in (VALUE, OUTPUT) else None

    def _turned(self, tensor: Tensor, axis: int, part: Part) -> Tensor:
        """Return a tensor with the part of an axis rotated, head by head."""
        import torch

        rotation = self._rotation(part.group)
        if rotation is None:
            return tensor
        first = tensor.movedim(axis, 0).clone()
        chosen = slice(None) if part.entries is None else torch.tensor(part.entries)
        own, size = first[chosen], rotation.shape[-1]
        heads = own.reshape(len(own) // size, size, -1)
        repeated = rotation.repeat_interleave(len(heads) // len(rotation), dim=0)
        first[chosen] = torch.bmm(repeated.to(own.dtype), heads).reshape(own.shape)
        return first.movedim(0, axis).contiguous()


def blocks(order: Tensor, size: int) -> Tensor:
    """Return the order of entries where whole blocks of `size` are put in an order."""
    import torch

    return (order[:, None] * size + torch.arange(size)).flatten()
