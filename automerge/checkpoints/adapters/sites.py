"""What PEFT can do to each tensor of a model, by the kind of module that owns it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from automerge.checkpoints.architecture import architecture
from automerge.checkpoints.vocabularies.tensors import vocabulary_tensors


class Kind(Enum):
    """How an adapter stores the change of a tensor.

    `LINEAR`, `TRANSPOSED` (Conv1D) and `EMBEDDING` take factors; `BIAS` and `WHOLE` are stored as
    they become; `PART` is stored apart from what it is in the live model, such as one expert of a
    stack, which PEFT has no name for.
    """

    LINEAR = "linear"
    TRANSPOSED = "transposed"
    EMBEDDING = "embedding"
    BIAS = "bias"
    WHOLE = "whole"
    PART = "part"


@dataclass(frozen=True)
class Site:
    """A tensor of the live model: its module, its own name in it, and its kind.

    `outer` is whether it is an embedding or an output head.
    """

    module: str
    leaf: str
    kind: Kind
    outer: bool = False

    @property
    def takes_factors(self) -> bool:
        """Whether the change may be a product of factors."""
        return self.kind in (Kind.LINEAR, Kind.TRANSPOSED, Kind.EMBEDDING)


def sites(config: Mapping[str, Any], names: Iterable[str]) -> dict[str, Site]:
    """Return the site of each tensor that the live model has.

    Args:
        config: the model's configuration.
        names: of tensors in its checkpoint.

    Raises:
        PreflightError: transformers does not have the architecture.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    own, known = architecture(config), list(names)
    vocabulary = vocabulary_tensors(config, known)
    found: dict[str, Site] = {}
    for name, key in own.keys(known).items():
        if key is None:
            continue
        module, _, leaf = key.live.rpartition(".")
        owner = own.model.get_submodule(module)
        outer = name in (*vocabulary.embeddings, *vocabulary.heads)
        kind = Kind.WHOLE
        if key.part != key.live:
            kind = Kind.PART
        elif leaf == "bias" and isinstance(owner, nn.Linear | Conv1D):
            kind = Kind.BIAS
        elif leaf == "weight" and isinstance(owner, nn.Linear):
            kind = Kind.LINEAR
        elif leaf == "weight" and isinstance(owner, Conv1D):
            kind = Kind.TRANSPOSED
        elif leaf == "weight" and isinstance(owner, nn.Embedding):
            kind = Kind.EMBEDDING
        found[name] = Site(module, leaf, kind, outer)
    return found
