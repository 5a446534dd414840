"""The contract of evidence, and its kinds.

Evidence is computed once from a model and some data (`automerge gather`), and stored by tensor name
in one safetensors file, which is named by a digest of its bytes. A method says in `Method.needs`
which kinds it needs; a recipe names, for each of its sources, the digest of the file that it is
merged with; both engines look the digest up and pass the tensors to the kernel. So a recipe merges
to the same bits wherever the file is available, and is refused where it is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Kind:
    """One kind of evidence; a new `version` means that the same input gives different numbers."""

    name: str
    meaning: str
    version: int


INPUT_GRAM = Kind(
    "input_gram", "mean of x xᵀ over the inputs x of a linear layer, (inputs, inputs), float32", 1
)
KINDS: Mapping[str, Kind] = MappingProxyType({kind.name: kind for kind in (INPUT_GRAM,)})


class Evidence(Protocol):
    """Evidence of one kind, from one model and some data."""

    @property
    def kind(self) -> str:
        """The name of one of `KINDS`."""

    @property
    def digest(self) -> str:
        """Its name in recipes: 32 hexadecimal digits."""

    def read(self, tensor: str) -> Tensor | None:
        """Return the evidence for a tensor of the checkpoint; None if there is none."""
