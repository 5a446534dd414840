"""Where a checkpoint's tensors lie in a live model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from automerge.checkpoints import spellings, stored_parts
from automerge.errors import Fault, PreflightError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def live_tensors(model: PreTrainedModel, names: Iterable[str]) -> dict[str, Tensor]:
    """Find a live model's parameters and buffers, or parts of them, by checkpoint name.

    transformers may name and arrange tensors otherwise in memory than on disk: it stacks the
    experts of a mixture, for one. A name then stands for its part of the parameter. Tied tensors
    appear once, under the first name the model gives them; their other names, and tensors the
    architecture ignores when it is loaded, are left out. Raises PreflightError where a tensor has
    no place, a parameter is not filled, or its parts are not where they could be written.
    """
    state: dict[str, Tensor] = model.state_dict(keep_vars=True)
    owners: dict[int, str] = {}
    for name, tensor in state.items():
        owners.setdefault(id(tensor), name)
    own = {name: tensor for name, tensor in state.items() if owners[id(tensor)] == name}
    prefix = model.base_model_prefix
    ignored = model._keys_to_ignore_on_load_unexpected or ()
    targets: dict[str, Tensor] = {}
    filled: set[str] = set()
    elsewhere: list[str] = []
    for name in names:
        found = next((s for s in spellings(name, prefix) if s in state), None)
        if found is None:
            elsewhere.append(name)
        elif found in own:
            targets[name] = own[found]
            filled.add(found)
    left = {name: tensor for name, tensor in own.items() if name not in filled}
    parts = stored_parts(model, left) if elsewhere and left else {}
    room = {name: tensor.numel() for name, tensor in left.items()}
    homeless: list[str] = []
    for name in elsewhere:
        part = next((parts[s] for s in spellings(name, prefix) if s in parts), None)
        owner = None if part is None else owner_of(part, left)
        if part is not None and owner is not None:
            targets[name] = part
            room[owner] -= part.numel()
        elif not any(re.search(pattern, name) for pattern in ignored):
            homeless.append(name)
    kind = type(model).__name__
    faults = [f"{kind} has no parameter for checkpoint tensor {name!r}" for name in homeless[:5]]
    empty = [name for name, n in room.items() if n]
    faults += [f"no checkpoint tensor fills {kind}'s {name!r}" for name in empty[:5]]
    if faults:
        raise PreflightError(Fault(fault) for fault in faults)
    return targets


def owner_of(part: Tensor, state: Mapping[str, Tensor]) -> str | None:
    """The tensor in whose memory a part lies; None where it is a copy."""
    for name, tensor in state.items():
        start = tensor.data_ptr()
        if start <= part.data_ptr() < start + tensor.numel() * tensor.element_size():
            return name
    return None
