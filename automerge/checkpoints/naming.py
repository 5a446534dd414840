"""What tensors of a live model are called, and how they are cut, on disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def spellings(name: str, prefix: str) -> tuple[str, str, str]:
    """How a tensor may be named: as it is, with the model's outer prefix, without it."""
    return name, f"{prefix}.{name}", name.removeprefix(f"{prefix}.")


def stored_parts(model: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that save_pretrained would write for part of a model's state, by name on disk.

    They share the memory of the live ones wherever saving only renames, splits or transposes.
    """
    import torch
    from transformers.core_model_loading import revert_weight_conversion

    class View(torch.Tensor):
        """A tensor whose parts are not copied for being spread over memory."""

        def contiguous(self, *_: object, **__: object) -> View:
            return self

    views = {name: tensor.detach().as_subclass(View) for name, tensor in state.items()}
    stored = revert_weight_conversion(model, views)
    return {name: tensor.as_subclass(torch.Tensor) for name, tensor in stored.items()}


def live_names(model: Any, names: Iterable[str]) -> dict[str, str]:
    """What stored tensors are called in a live model; those that become part of one are left out.

    transformers' own rules rename them, older spellings included.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if not isinstance(rule, WeightRenaming)]
    state = model.state_dict()
    found = {}
    for name in names:
        live, pattern = rename_source_key(
            name, renamings, converters, model.base_model_prefix, state
        )
        if pattern is None and live in state:
            found[name] = live
    return found
