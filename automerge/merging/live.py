"""Where a checkpoint's tensors lie in a live model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from automerge.checkpoints import find_keys, stored_parts
from automerge.checkpoints.places import LAYER
from automerge.errors import Fault, PreflightError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def live_tensors(model: PreTrainedModel, names: Iterable[str]) -> dict[str, Tensor]:
    """Find a live model's parameters and buffers, or parts of them, by checkpoint name.

    transformers may name and arrange tensors differently in memory than on disk; for example, it
    stacks the experts of a mixture. A name then stands for its part of the parameter. Tied tensors
    appear once, under the first of their names; their other names, and tensors outside the layers
    that the architecture does not have, are left out.

    Raises:
        PreflightError: A tensor of a layer has no place, a parameter is not filled, or its parts
            are not in memory where they could be written.
    """
    state: dict[str, Tensor] = model.state_dict(keep_vars=True)
    owners: dict[int, str] = {}
    for name, tensor in state.items():
        owners.setdefault(id(tensor), name)
    own = {name: tensor for name, tensor in state.items() if owners[id(tensor)] == name}
    found = find_keys(model, names)
    keys = {name: key for name, key in found.items() if key is not None}
    ignored = model._keys_to_ignore_on_load_unexpected or ()
    homeless = [
        name
        for name, key in found.items()
        if key is None and LAYER.match(name) and not any(re.search(p, name) for p in ignored)
    ]
    targets: dict[str, Tensor] = {}
    filled: set[str] = set()
    for name, key in keys.items():
        owner = owners[id(state[key.live])]
        if key.part == key.live and owner not in filled:
            targets[name] = own[owner]
            filled.add(owner)
    left = {name: tensor for name, tensor in own.items() if name not in filled}
    elsewhere = {key.part: name for name, key in keys.items() if key.part != key.live}
    room = {name: tensor.numel() for name, tensor in left.items()}
    for part, tensor in parts_of(model, left).items() if elsewhere and left else ():
        if (stored := elsewhere.pop(part, None)) is None:
            continue
        whole = owner_of(tensor, left)
        if whole is None:
            homeless.append(stored)
        else:
            targets[stored] = tensor
            room[whole] -= tensor.numel()
    homeless += elsewhere.values()
    kind = type(model).__name__
    faults = [f"{kind} has no parameter for checkpoint tensor {name!r}" for name in homeless[:5]]
    buffers = {name for name, _ in model.named_buffers()}
    empty = [name for name, n in room.items() if n and name not in buffers]
    faults += [f"no checkpoint tensor fills {kind}'s {name!r}" for name in empty[:5]]
    if faults:
        raise PreflightError(Fault(fault) for fault in faults)
    return targets


def parts_of(model: PreTrainedModel, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what would be stored of part of a model's state, by key."""
    stored = stored_parts(model, state)
    keys = find_keys(model, stored)
    return {key.part: stored[name] for name, key in keys.items() if key is not None}


def owner_of(part: Tensor, state: Mapping[str, Tensor]) -> str | None:
    """Return the tensor in whose memory a part lies; None if it is a copy."""
    for name, tensor in state.items():
        start = tensor.data_ptr()
        if start <= part.data_ptr() < start + tensor.numel() * tensor.element_size():
            return name
    return None
