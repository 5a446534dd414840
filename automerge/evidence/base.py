"""The contract of evidence, and its kinds.

Evidence is computed once from a model and some data (`automerge gather`), and stored by tensor name
in one safetensors file, which is named by a digest of its bytes. A method says in `Method.needs`
which kinds it needs; a recipe names, for each of its sources, the digest of the file that it is
merged with; both engines look the digest up and pass the tensors to the kernel. So a recipe merges
to the same bits wherever the file is available, and is refused where it is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol

from automerge import expert_groups, mixture
from automerge.recipe import CALIBRATED_BY, ROUTED

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Kind:
    """One kind of evidence; a new `version` means that the same input gives different numbers.

    `elements` counts the numbers it may have for a tensor of some shape, in float32; `of` says, by
    name, which tensors may have any. `at` says whose weights it is computed at: the source's own,
    or the base's, on the source's text. `together` says that a tensor's evidence depends on other
    tensors: all are gathered at once.
    """

    name: str
    meaning: str
    version: int
    elements: Callable[[tuple[int, ...]], int]
    at: Literal["source", "base"] = "source"
    together: bool = False
    of: Callable[[str], bool] = lambda tensor: True


def _inputs_squared(shape: tuple[int, ...]) -> int:
    return shape[1] ** 2 if len(shape) == 2 else 0


INPUT_GRAM = Kind(
    "input_gram",
    "mean of x xᵀ over the inputs x of a linear layer, (inputs, inputs), float32",
    1,
    _inputs_squared,
)
SQUARED_GRADIENT = Kind(
    "squared_gradient",
    "mean per token of the squared gradient of log p(label), labels drawn from the model: the "
    "diagonal of the Fisher information, of the tensor's shape, float32",
    1,
    math.prod,
)
BASE_SQUARED_GRADIENT = Kind(
    "base_squared_gradient",
    "the same of the base, on the source's text",
    1,
    math.prod,
    at="base",
)
BASE_GRADIENT = Kind(
    "base_gradient",
    "mean gradient of −log p(next token) of the base on the source's text, of the tensor's shape, "
    "float32",
    1,
    math.prod,
    at="base",
)
GRADIENT = Kind(
    "gradient",
    "mean gradient of −log p(next token) of the source on its text, of the tensor's shape, float32",
    1,
    math.prod,
)
SQUARED_MASK_GRADIENT = Kind(
    "squared_mask_gradient",
    "mean per token of the squared gradient of log p(label), labels drawn from the model, with "
    "respect to a factor of what each head and feed-forward unit puts out, for a tensor's rows or "
    "columns or as their mean, of a shape that broadcasts to the tensor's, float32",
    1,
    lambda shape: max(shape, default=1),
    together=True,
)
HIDDEN_STATE = Kind(
    mixture.EVIDENCE,
    "mean over tokens of the base's hidden state that enters a layer, on the source's text, "
    "(width,), float32, by the layer's gate_proj",
    1,
    lambda shape: shape[1] if len(shape) == 2 else 0,
    at="base",
)
ACTIVATIONS = Kind(
    CALIBRATED_BY,
    "mean and deviation of each output of a linear layer or an expert's matrix, (2, outputs), "
    "float32, with the tokens that they were taken on",
    3,
    lambda shape: 2 * max(shape) if len(shape) == 2 else 0,
)
ROUTING = Kind(
    expert_groups.EVIDENCE,
    "how a mixture routes: per expert its share of the router's choices, its mean output over all "
    "tokens, and the mean products of its router logit with those of all experts, "
    "(experts, 1 + width + experts), float32, by the router",
    1,
    lambda shape: shape[0] * (1 + sum(shape)) if len(shape) == 2 else 0,
    of=lambda tensor: ROUTED["router"].search(tensor) is not None,
)
_ALL = (
    *(INPUT_GRAM, SQUARED_GRADIENT, BASE_SQUARED_GRADIENT, BASE_GRADIENT),
    *(GRADIENT, SQUARED_MASK_GRADIENT, HIDDEN_STATE, ACTIVATIONS, ROUTING),
)
KINDS: Mapping[str, Kind] = MappingProxyType({kind.name: kind for kind in _ALL})


class Evidence(Protocol):
    """Evidence of one kind, from one model and some data."""

    @property
    def kind(self) -> str:
        """The name of one of `KINDS`."""

    @property
    def digest(self) -> str:
        """Its name in recipes: 32 hexadecimal digits."""

    @property
    def pieces(self) -> Sequence[Sequence[int]]:
        """The sequences of token ids of evidence that a live model is compared with; else none."""

    def read(self, tensor: str) -> Tensor | None:
        """Return the evidence for a tensor of the checkpoint; None if there is none."""
