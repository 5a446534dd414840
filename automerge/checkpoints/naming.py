"""How the tensors of a live model are named and split on disk."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Key(NamedTuple):
    """What a stored tensor is, however its name is spelled: equal for the same tensor.

    `live` is the tensor of the live model that it becomes, or the first that it goes into; `part`
    names the part of it that it is, and is the same name if it is the whole.
    """

    live: str
    part: str


def find_keys(model: Any, names: Iterable[str]) -> dict[str, Key | None]:
    """Return what stored tensors become when transformers loads them; None for those it ignores.

    Names are converted by transformers' own rules for the architecture, including older spellings,
    and the prefix of the base model is added or removed.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightRenaming,
        apply_converters,
        apply_renamings,
        dot_natural_key,
    )

    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if not isinstance(rule, WeightRenaming)]
    state = frozenset(model.state_dict(keep_vars=True))
    prefix = model.base_model_prefix
    found: dict[str, Key | None] = {}
    for name in sorted(names, key=dot_natural_key):
        renamed = apply_renamings(name, renamings)
        converted, pattern = apply_converters(renamed, converters)
        live = fitted(converted, prefix, state)
        if live not in state and (plain := fitted(name, prefix, state)) in state:
            found[name] = Key(plain, plain)
        elif live not in state:
            found[name] = None
        elif pattern is None:
            found[name] = Key(live, live)
        else:
            found[name] = Key(live, alike(renamed, converted, live))
    return found


def fitted(name: str, prefix: str, state: frozenset[str]) -> str:
    """Return a name with or without the base model's prefix, whichever the live model has."""
    if prefix:
        if (inner := re.sub(f"^{prefix}.", "", name, count=1)) != name and inner in state:
            return inner
        if f"{prefix}.{name}" in state:
            return f"{prefix}.{name}"
    return name


def alike(name: str, before: str, after: str) -> str:
    """Change the beginning of a name as that of another, `before`, was changed to `after`."""
    if after == before:
        return name
    if after.endswith(f".{before}"):
        return after.removesuffix(before) + name
    return name.removeprefix(before.removesuffix(after))


def stored_parts(model: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what save_pretrained would write for part of a model's state, by name on disk.

    Tensors share the memory of the live ones wherever saving only renames, splits or transposes.
    """
    import torch
    from transformers.core_model_loading import revert_weight_conversion

    class View(torch.Tensor):
        """A tensor whose parts are not copied when they are not contiguous."""

        def contiguous(self, *_: object, **__: object) -> View:
            return self

    views = {name: tensor.detach().as_subclass(View) for name, tensor in state.items()}
    stored = revert_weight_conversion(model, views)
    return {name: tensor.as_subclass(torch.Tensor) for name, tensor in stored.items()}


def same_part(tensor: Tensor, owner: Tensor, part: Tensor) -> Tensor:
    """Return the part of a tensor that `part` is of `owner`, which has the tensor's shape."""
    if part.shape == owner.shape and part.stride() == owner.stride():
        return tensor
    offset = part.storage_offset() - owner.storage_offset()
    return tensor.contiguous().as_strided(part.shape, part.stride(), offset)
