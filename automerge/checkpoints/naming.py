"""What tensors of a live model are called, and how they are cut, on disk."""

from __future__ import annotations

from collections.abc import Mapping
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
