"""Which tensors have a row per token, according to the architecture itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from automerge.checkpoints.architecture import architecture

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class VocabularyTensors:
    """The names, in a checkpoint, of token embeddings and of the output head with its bias.

    A name need not be in the checkpoint: a tied head is not.
    """

    embeddings: tuple[str, ...]
    heads: tuple[str, ...]
    head_biases: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return self.embeddings + self.heads + self.head_biases


def vocabulary_tensors(config: Mapping[str, Any], stored: Iterable[str]) -> VocabularyTensors:
    """Find a model's token embeddings and output head by building it without weights.

    Args:
        config: the model's configuration.
        stored: the names in the checkpoint, with or without an outer prefix such as "model.".

    Raises:
        PreflightError: transformers does not have the architecture.
    """
    made = architecture(config)
    model = made.model
    known = [*stored]
    spelled = {key.part: name for name, key in made.keys(known).items() if key is not None}
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    heads = tuple(parameters(model, head, "weight")) if head is not None else ()
    biases = tuple(parameters(model, head, "bias")) if head is not None else ()
    weight = embedding.weight
    embeddings = (
        name
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if parameter is weight and name not in heads
    )
    kinds = (
        tuple(dict.fromkeys(spelled.get(name, name) for name in names))
        for names in (embeddings, heads, biases)
    )
    return VocabularyTensors(*kinds)


def parameters(model: nn.Module, module: nn.Module, kind: str) -> list[str]:
    """Return all names of a parameter of one module, tied or not."""
    if getattr(module, kind, None) is None:
        return []
    return [
        f"{name}.{kind}"
        for name, found in model.named_modules(remove_duplicate=False)
        if found is module
    ]
