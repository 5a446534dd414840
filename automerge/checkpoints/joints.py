"""Scales of the hidden state at the joints of slices, folded into the weights.

Evolutionary model merging (Akiba et al. 2024, arXiv:2403.13187, section 3.2) multiplies the hidden
state by a number as it enters a layer. Where each branch F of a layer begins with a norm, which
forgets the scale of its input, a stack with scales s_1, s_2, …,

    x_t = s_t (x_{t−1} + F_{t−1}(x_{t−1})),

is a plain stack of g_t = x_t / S_t with S_t = s_1 ⋯ s_t,

    g_t = g_{t−1} + F_{t−1}(g_{t−1}) / S_{t−1}.

So what a branch writes is divided by S_t, and the final norm forgets the last S. Only the norms'
ε keeps it: that of x is ε / S² for g, which changes a norm's output by a factor of at most
1 + |1 − 1/S²| ε / (2 m), where m is the mean of g².
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from automerge.checkpoints.places import LAYER
from automerge.errors import Fault, PreflightError
from automerge.recipe import Place, Recipe


@dataclass(frozen=True)
class Fold:
    """What a scale makes of a tensor W: (W + offset) · factor − offset."""

    factor: float
    offset: float = 0.0


@dataclass(frozen=True)
class Writes:
    """The tensors of a layer whose size is that of what its branches add to the hidden state.

    `offset` is what the architecture adds to them: a norm may multiply by 1 + w.
    """

    names: str
    offset: float = 0.0


_PROJECTIONS = Writes(r"(self_attn\.o_proj|mlp\.down_proj)\.(weight|bias)")
_EXPERTS = Writes(
    r"(self_attn\.o_proj|mlp\.(down_proj|(experts\.\d+|shared_expert)\.down_proj)"
    r"|block_sparse_moe\.experts\.\d+\.w2)\.(weight|bias)"
)
_SANDWICH = Writes(r"post_(attention|feedforward)_layernorm\.weight", offset=1.0)
"""A norm follows each branch, too, and forgets the scale of the projection before it."""
WRITES: Mapping[str, Writes] = {
    "gemma": _PROJECTIONS,
    "gemma2": _SANDWICH,
    "gemma3_text": _SANDWICH,
    "gpt2": Writes(r"(attn|mlp)\.c_proj\.(weight|bias)"),
    "gpt_neox": Writes(r"(attention\.dense|mlp\.dense_4h_to_h)\.(weight|bias)"),
    "llama": _PROJECTIONS,
    "mistral": _PROJECTIONS,
    "mixtral": _EXPERTS,
    "olmo": _PROJECTIONS,
    "phi": Writes(r"(self_attn\.dense|mlp\.fc2)\.(weight|bias)"),
    "phi3": _PROJECTIONS,
    "qwen2": _PROJECTIONS,
    "qwen2_moe": _EXPERTS,
    "qwen3": _PROJECTIONS,
    "qwen3_moe": _EXPERTS,
}
"""By `model_type`: architectures whose branches all begin with a norm."""


def joint_faults(config: Mapping[str, Any]) -> list[str]:
    """List why scales at joints cannot be folded into the weights of a configuration's model."""
    kind = config.get("model_type")
    if kind in WRITES:
        return []
    return [
        f"`input_scale` needs layers whose branches all begin with a norm; {kind} is not known to "
        f"have such layers (known: {', '.join(WRITES)}): remove input_scale"
    ]


class Joints:
    """The scales of a recipe's slices, as folds of the tensors that they change.

    Raises:
        PreflightError: the architecture's weights cannot take the scales.
    """

    def __init__(self, recipe: Recipe, config: Mapping[str, Any]) -> None:
        self._scales = layer_scales(recipe)
        self._writes: Writes | None = None
        if any(scale != 1 for scale in self._scales):
            if faults := joint_faults(config):
                raise PreflightError(map(Fault, faults))
            self._writes = WRITES[config["model_type"]]

    def fold(self, place: Place) -> Fold | None:
        """Return what the scales make of the tensor at a place; None for nothing."""
        if self._writes is None or place.layer is None or self._scales[place.layer] == 1:
            return None
        match = LAYER.match(place.tensor)
        if match is None or not re.fullmatch(self._writes.names, match[3]):
            return None
        return Fold(1 / self._scales[place.layer], self._writes.offset)


def layer_scales(recipe: Recipe) -> list[float]:
    """Return, per layer of a recipe with slices, the product of all scales up to it."""
    scales: list[float] = []
    product = 1.0
    for piece in recipe.slices:
        product *= piece.input_scale
        scales += [product] * piece.n_layers
    return scales
