"""Give the layers of a live model other experts, and their own feed-forward parts back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from automerge.checkpoints.architecture import quiet, read_config
from automerge.checkpoints.kinds import language_class
from automerge.checkpoints.mixed import PER_TOKEN
from automerge.merging.layers import find_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PART = "mlp"
"""The name of a layer's feed-forward part in a live model, dense or not."""
_UNSAID = object()
"""Stands for a setting that a configuration lacks."""


class LiveExperts:
    """Puts transformers' own mixture of experts in the place of a model's feed-forward parts.

    A merge writes the experts' weights; the model's own parts, dense or not, are set aside and keep
    theirs. Of the experts, as many are in memory as the last mixture had. The configuration says of
    them what an exported one does.
    """

    def __init__(self, model: PreTrainedModel, n_layers: int) -> None:
        _, self._layers = find_layers(model, n_layers)
        self._config = model.config
        self._own: Sequence[nn.Module] = [getattr(layer, _PART) for layer in self._layers]
        self._twin: PreTrainedModel | None = None
        self._shape: object = None
        self._said: Mapping[str, object] = {}
        """What the configuration said of experts before, by the settings that say it now."""

    def restore(self) -> None:
        """Give the model's layers their own parts back."""
        self._put(self._own)
        for key, value in self._said.items():
            if value is _UNSAID:
                delattr(self._config, key)
            else:
                setattr(self._config, key, value)
        self._said = {}

    @property
    def routed(self) -> bool:
        """Whether the model has experts now."""
        return bool(self._said)

    def make_room(self, config: Mapping[str, Any], count: str) -> bool:
        """Forget experts that are not as many as a configuration says, or not where it says.

        `count` is the setting that says how many.

        Returns:
            Whether there were any: whoever else holds their tensors must forget them, too.
        """
        if self._twin is None or self._shape == _shape(config, count):
            return False
        if self.routed:
            self.restore()
        self._twin = None
        return True

    def arrange(
        self, model: PreTrainedModel, config: Mapping[str, Any], count: str
    ) -> PreTrainedModel:
        """Give the model's layers experts as the configuration of a mixture says.

        They are those that the model had before, unless room was made since.

        Returns:
            A model of the architecture that the live one now is, whose modules are the live ones:
            stored names are those of its tensors.
        """
        if self._twin is None:
            self._twin = self._twin_of(model, config)
            self._shape = _shape(config, count)
        _, layers = find_layers(self._twin, len(self._layers))
        blocks = [getattr(layer, _PART) for layer in layers]
        for block in blocks:
            for module in block.modules():
                if hasattr(module, "top_k"):
                    setattr(module, "top_k", config[PER_TOKEN])  # noqa: B010 (not a tensor)
        self._put(blocks)
        if not self.routed:
            said = {key: getattr(self._config, key, _UNSAID) for key in (count, PER_TOKEN)}
            self._said = said
        for key in self._said:
            setattr(self._config, key, config[key])
        return self._twin

    def _put(self, parts: Sequence[nn.Module]) -> None:
        for layer, part in zip(self._layers, parts, strict=True):
            setattr(layer, _PART, part)

    def _twin_of(self, model: PreTrainedModel, config: Mapping[str, Any]) -> PreTrainedModel:
        """Build a mixture that shares everything with the model but experts and gates."""
        made = read_config(config)
        with quiet(), torch.device("meta"):
            twin: PreTrainedModel = language_class(made)._from_config(made, dtype=model.dtype)
        twin.eval().requires_grad_(False)
        _, layers = find_layers(twin, len(self._layers))
        for layer, live, own in zip(layers, self._layers, self._own, strict=True):
            if hasattr(getattr(layer, _PART), "experts"):
                getattr(layer, _PART).to_empty(device=next(own.parameters()).device)
            else:
                setattr(layer, _PART, own)
            _share(layer, live, but=_PART)
        name, _ = find_layers(twin, len(self._layers))
        owner, _, listed = name.rpartition(".")
        _share(twin.get_submodule(owner), model.get_submodule(owner), but=listed)
        _share(twin, model, but=owner)
        return twin


def _shape(config: Mapping[str, Any], count: str) -> object:
    """Return what decides how many experts there are in which layers."""
    return config[count], tuple(config.get("mlp_only_layers") or ())


def _share(module: nn.Module, other: nn.Module, but: str) -> None:
    """Put all children of another module, but one, into the places of a module's own."""
    for name, _ in list(module.named_children()):
        if name != but:
            setattr(module, name, getattr(other, name))
