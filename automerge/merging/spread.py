"""A live model too large for one device: its layers lie on several, all else on the first.

Hidden states move to each layer's device and come back after the last, so inputs and logits are on
the first device, as if it were the only one. Weights are merged where they lie.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from automerge.errors import PreflightError
from automerge.merging.layers import find_layers
from automerge.text.error import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBE = 4
"""Tokens in the trial run of a model that has just been spread."""


def divided(layers: Sequence[int], outer: int, free: Sequence[int]) -> tuple[int, ...] | None:
    """Assign layers to devices in order, so that as much as possible stays free on each.

    Args:
        layers: bytes of each layer.
        outer: bytes of all else, which is on the first device.
        free: bytes free on each device.

    Returns:
        The number of each layer's device, ascending; None where they do not fit.
    """

    def filled(kept: int) -> list[int] | None:
        """Fill devices one after the other, keeping so much free on each."""
        rooms = [room - kept for room in free]
        rooms[0] -= outer
        at, placed = 0, []
        if rooms[0] < 0:
            return None
        for size in layers:
            while at < len(rooms) and rooms[at] < size:
                at += 1
            if at == len(rooms):
                return None
            rooms[at] -= size
            placed.append(at)
        return placed

    # The most that can be kept: the last number for which filling works.
    most = bisect_left(range(max(free) + 1), True, key=lambda kept: filled(kept) is None)
    found = filled(most - 1) if most else None
    return None if found is None else tuple(found)


def spread(model: PreTrainedModel, devices: Sequence[torch.device]) -> None:
    """Move a model's layers to devices, one for each, and all else to the first layer's.

    Raises:
        PreflightError: the model has no single list of so many layers, or its code expects them on
            one device.
    """
    first = devices[0]
    name, layers = find_layers(model, len(devices))
    parent, _, own = name.rpartition(".")
    owner = model.get_submodule(parent)
    listed = getattr(owner, own)
    setattr(owner, own, nn.ModuleList())
    model.to(first)
    outer = [m for m in model.modules() if next(m.parameters(recurse=False), None) is not None]
    setattr(owner, own, listed)
    moved = _Moved()
    model.register_forward_pre_hook(moved.forget)
    for module in outer:
        module.register_forward_pre_hook(_Move(first, moved), with_kwargs=True)
    for layer, device in zip(layers, devices, strict=True):
        layer.to(device).register_forward_pre_hook(_Move(device, moved), with_kwargs=True)
    tokens = torch.arange(PROBE, device=first)[None]
    try:
        with torch.no_grad():
            model(input_ids=tokens, use_cache=False)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError) as error:
        raise PreflightError(
            f"{type(model).__name__} cannot be spread over {len(set(devices))} devices: "
            f"{first_line(error)[:200]}; use gpus_per_worker: 1"
        ) from error


class _Moved:
    """Copies of what all layers are given, such as masks: one for each device and forward pass."""

    def __init__(self) -> None:
        self._copies: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    def forget(self, module: nn.Module, args: object) -> None:
        """Begin a forward pass."""
        self._copies.clear()

    def to(self, tensor: Tensor, device: torch.device) -> Tensor:
        """Return a tensor on a device."""
        if tensor.device == device:
            return tensor
        if tensor.requires_grad:
            return tensor.to(device)
        key = id(tensor), device
        if key not in self._copies:  # Holding the original keeps its number from being used again.
            self._copies[key] = tensor, tensor.to(device)
        return self._copies[key][1]


class _Move:
    """Before a module runs: what it is given comes to its device."""

    def __init__(self, device: torch.device, moved: _Moved) -> None:
        self._device, self._moved = device, moved

    def __deepcopy__(self, memo: object) -> _Move:
        """A copy of a layer lies where the layer does."""
        return self

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        first, *rest = args or (None,)
        # Hidden states are different for each layer: nothing is gained by keeping copies.
        first = first.to(self._device) if isinstance(first, Tensor) else self._there(first)
        return (first, *map(self._there, rest))[: len(args)], self._there(kwargs)

    def _there(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._moved.to(value, self._device)
        if type(value) in (tuple, list):
            return type(value)(map(self._there, value))
        if type(value) is dict:
            return {key: self._there(own) for key, own in value.items()}
        return value
