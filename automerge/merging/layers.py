"""Leave out, repeat and put back the layers of a live model."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from automerge.checkpoints.stacked import count_key, entries, layered_keys
from automerge.errors import Fault, PreflightError
from automerge.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LiveLayers:
    """Gives a live model more or fewer layers than it was built with: its own, or copies of them.

    A merge writes their weights; copies do not share them.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._config = model.config.get_text_config()
        plain = self._config.to_dict()
        self._plain = {key: plain[key] for key in (count_key(plain), *layered_keys(plain))}
        self._name = ""
        self._built: list[nn.Module] = []
        self._copies: dict[tuple[int, int], nn.Module] = {}

    @property
    def n_layers(self) -> int:
        """How many layers the model was built with."""
        return int(self._plain[count_key(self._plain)])

    def agree(self, settings: Mapping[str, Any]) -> bool:
        """Return whether the configuration says `settings`, and otherwise what it began with."""
        wanted = {**self._plain, **settings}
        return all(getattr(self._config, key) == value for key, value in wanted.items())

    def arrange(
        self, model: PreTrainedModel, order: Sequence[int], settings: Mapping[str, Any]
    ) -> None:
        """Compose the model's layers of those it was built with, by number.

        Args:
            settings: What its configuration says of layers from now on.

        Raises:
            PreflightError: A layer would be in a place of another kind, or the model does not have
                exactly one list of as many modules as it was built with layers.
        """
        wanted = {**self._plain, **settings}
        self._check(order, wanted)
        if not self._built:
            self._name, self._built = find_layers(model, self.n_layers)
        used: dict[int, int] = {}
        layers = []
        for place, number in enumerate(order):
            used[number] = used.get(number, 0) + 1
            layer = self._layer(number, used[number])
            for module in layer.modules():
                if hasattr(module, "layer_idx"):
                    setattr(module, "layer_idx", place)  # noqa: B010 (type checkers see a tensor)
            layers.append(layer)
        parent, _, name = self._name.rpartition(".")
        setattr(model.get_submodule(parent), name, nn.ModuleList(layers))
        for key, value in wanted.items():
            setattr(self._config, key, value)

    def _layer(self, number: int, time: int) -> nn.Module:
        """Return a layer the first time, and copies of it later."""
        if time == 1:
            return self._built[number]
        if (number, time) not in self._copies:
            self._copies[number, time] = copy.deepcopy(self._built[number])
        return self._copies[number, time]

    def _check(self, order: Sequence[int], wanted: Mapping[str, Any]) -> None:
        """Refuse layers in places where the configuration needs another kind."""
        for key in layered_keys(self._plain):
            built, there = entries(key, self._plain) or (), entries(key, wanted) or ()
            if [built[number] for number in order] != list(there):
                message = f"the recipe's slices put layers where another {key} is: {list(there)}"
                raise PreflightError(Fault(message))


def find_layers(model: PreTrainedModel, n_layers: int) -> tuple[str, list[nn.Module]]:
    """Return a live model's layers, and the name of the list they are in.

    Raises:
        PreflightError: it does not have exactly one list of as many modules.
    """
    found = {
        name: list(module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers
    }
    if len(found) != 1:
        raise PreflightError(
            f"{type(model).__name__} has {len(found)} lists of {n_layers} modules where one is "
            "expected: its layers cannot be left out, repeated, or spread over devices"
        )
    ((name, layers),) = found.items()
    return name, layers


def layer_order(recipe: Recipe, n_layers: int) -> list[int]:
    """Return, per layer of a recipe's result, the layer of a model of `n_layers` in its place.

    It is the base's layer, or the first model's, among those merged there; the last layer stands
    for those of deeper models.
    """
    if not recipe.slices:
        return list(range(n_layers))
    order: list[int] = []
    for piece in recipe.slices:
        first = recipe.base if recipe.base in piece.layers else next(iter(piece.layers))
        order += [min(number, n_layers - 1) for number in range(*piece.layers[str(first)])]
    return order
