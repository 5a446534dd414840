"""The configuration of a model whose layers are stacked from slices of others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automerge.checkpoints.architecture import architecture
from automerge.checkpoints.compatibility import complete
from automerge.checkpoints.layout import reference_model
from automerge.checkpoints.places import LAYER
from automerge.checkpoints.reader import Checkpoint, shown
from automerge.checkpoints.safetensors_file import TensorInfo
from automerge.errors import Fault, PreflightError
from automerge.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor

COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
TEXT = "text_config"
# Lists that may happen to have as many entries as there are layers.
UNLAYERED = ("architectures", "eos_token_id", "bos_token_id", "pad_token_id", "suppress_tokens")
# Lists of layers' numbers, which may contain all of them.
NUMBERS = ("mlp_only_layers", "moe_layers", "attn_layer_indices", "cross_attention_layers")


def stacked_config(
    recipe: Recipe, checkpoints: Mapping[str, Checkpoint], tensors: Mapping[str, TensorInfo]
) -> dict[str, Any]:
    """Return the result's settings that differ from the reference's, by top-level key.

    Args:
        recipe: a recipe with slices.
        checkpoints: its models.
        tensors: the result's tensors.

    Raises:
        PreflightError: no configuration can have these tensors.
    """
    config = checkpoints[reference_model(recipe)].config
    where, changed = stacked_settings(recipe, checkpoints)
    if where is not None and changed:
        changed = {where: {**config[where], **changed}}
    check_fit({**config, **changed}, tensors)
    return changed


def stacked_settings(
    recipe: Recipe, checkpoints: Mapping[str, Checkpoint]
) -> tuple[str | None, dict[str, Any]]:
    """Return the key of the section about layers, None at the top, and the settings slices change.

    These are the number of layers, lists with an entry per layer, and lists of layers' numbers.

    Raises:
        PreflightError: a configuration has no number of layers, or lacks such a list.
    """
    sections = {model: section(checkpoints[model]) for model in recipe.models}
    where, ours = sections[reference_model(recipe)]
    settings: dict[str, Any] = {count_key(ours): sum(piece.n_layers for piece in recipe.slices)}
    for key in layered_keys(ours):
        values: list[Any] = []
        for piece, part in zip(recipe.slices, recipe.parts, strict=True):
            model = reference_model(part)
            theirs = entries(key, sections[model][1])
            if theirs is None:
                raise PreflightError(
                    f"{model}'s configuration does not have {key} for every layer, but that of "
                    f"{reference_model(recipe)} does"
                )
            start, stop = piece.layers[model]
            values += theirs[start:stop]
        settings[key] = [i for i, in_it in enumerate(values) if in_it] if key in NUMBERS else values
    return where, {key: value for key, value in settings.items() if ours.get(key) != value}


def section(checkpoint: Checkpoint) -> tuple[str | None, Mapping[str, Any]]:
    """Return the key of the section about layers, None at the top, and the completed section."""
    config = complete(checkpoint)
    text = config.get(TEXT)
    if isinstance(text, Mapping) and any(key in text for key in COUNTS):
        return TEXT, text
    if any(key in config for key in COUNTS):
        return None, config
    raise PreflightError(
        f"{checkpoint.path / 'config.json'}: does not give the number of layers "
        f"({', '.join(COUNTS)}), which slices change"
    )


def count_key(settings: Mapping[str, Any]) -> str:
    """Return the key of a configuration's number of layers."""
    return next(key for key in COUNTS if key in settings)


def layered_keys(settings: Mapping[str, Any]) -> list[str]:
    """Return the keys of settings with an entry per layer."""
    return [key for key in settings if entries(key, settings) is not None]


def entries(key: str, settings: Mapping[str, Any]) -> Sequence[Any] | None:
    """Return a setting's entry for each layer, or None if it does not have one per layer.

    For lists of layers' numbers, an entry says whether the layer is in the list.
    """
    value, n_layers = settings.get(key), settings[count_key(settings)]
    if not isinstance(value, list | tuple) or key in UNLAYERED:
        return None
    if key in NUMBERS:
        return [layer in value for layer in range(n_layers)]
    return value if len(value) == n_layers else None


@dataclass(frozen=True)
class LayerlessCheckpoint:
    """The part of a model outside its layers, for comparing models of different depths."""

    path: Path
    assets: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    read: Callable[[str], Tensor]


def without_layers(checkpoint: Checkpoint) -> Checkpoint:
    """Return a model without its layers, and without its settings about them."""
    outer = {n: info for n, info in checkpoint.tensors.items() if not LAYER.match(n)}
    config = layerless(complete(checkpoint))
    return LayerlessCheckpoint(checkpoint.path, checkpoint.assets, config, outer, checkpoint.read)


def layerless(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a complete configuration with a single layer, and without settings about layers."""
    text = config.get(TEXT)
    plain = dict(config)
    if isinstance(text, Mapping):
        plain[TEXT] = layerless(text)
    if any(key in config for key in COUNTS):
        for key in layered_keys(config):
            del plain[key]
        plain[count_key(config)] = 1
    return plain


def check_fit(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> None:
    """Check that tensors are those of the architecture with this configuration.

    Raises:
        PreflightError: they are not, because layers of these kinds cannot be stacked in this order.
    """
    made = architecture(config)
    wanted = {made.ties.get(part, part): tuple(t.shape) for part, t in made.parts.items()}
    faults, found = [], set()
    for name, key in made.keys([*tensors]).items():
        part = key and made.ties.get(key.part, key.part)
        if part is None:
            if LAYER.match(name):
                faults.append(f"{name} has no place")
        elif part in wanted and wanted[part] != tensors[name].shape:
            faults.append(f"{name} is {list(tensors[name].shape)}, expected {list(wanted[part])}")
        else:
            found.add(part)
    lacking = [part for part in wanted if part not in found and not made.may_lack(part)]
    if lacking:
        faults.append(f"{shown(lacking)} is missing")
    if faults:
        kind = config.get("model_type")
        what = f"a {kind} cannot have these layers in this order: {shown(faults)}"
        raise PreflightError(Fault(f"{what}; stack layers of one kind"))
