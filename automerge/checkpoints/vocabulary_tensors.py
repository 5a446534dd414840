"""Which tensors have a row for every token, asked of the architecture itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from automerge.checkpoints.naming import spellings, stored_parts
from automerge.errors import PreflightError

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
    """Build the model without weights and find what it embeds tokens with, and its output head.

    `stored` are the checkpoint's names, which may lack or have an outer prefix such as "model.".
    Raises PreflightError for an architecture that transformers does not have.
    """
    model = empty_model(config)
    prefix, known = model.base_model_prefix, frozenset(stored)

    state = model.state_dict()

    def spelled(name: str) -> str:
        names = [name, *stored_parts(model, {name: state[name]})]
        found = (s for one in names for s in spellings(one, prefix) if s in known)
        return next(found, name)

    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    heads = tuple(parameters(model, head, "weight")) if head is not None else ()
    biases = tuple(parameters(model, head, "bias")) if head is not None else ()
    weight = embedding.weight
    embeddings = (
        name
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if parameter is weight and name not in heads
    )
    kinds = (tuple(dict.fromkeys(map(spelled, names))) for names in (embeddings, heads, biases))
    return VocabularyTensors(*kinds)


def parameters(model: nn.Module, module: nn.Module, kind: str) -> list[str]:
    """All names of one module's parameter, tied or not."""
    if getattr(module, kind, None) is None:
        return []
    return [
        f"{name}.{kind}"
        for name, found in model.named_modules(remove_duplicate=False)
        if found is module
    ]


def empty_model(config: Mapping[str, Any]) -> Any:
    """A transformers model of a configuration, without memory for its weights."""
    import torch
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = config.get("model_type")
    try:
        made = CONFIG_MAPPING[kind].from_dict(dict(config))
    except KeyError as error:
        raise PreflightError(f"model_type {kind!r} is no architecture of transformers") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise PreflightError(f"model_type {kind!r}: its config.json is wrong: {error}") from error
    for auto in (transformers.AutoModelForCausalLM, transformers.AutoModelForSeq2SeqLM):
        if type(made) in auto._model_mapping:
            with torch.device("meta"):
                return auto.from_config(made, trust_remote_code=False)
    raise PreflightError(f"model_type {kind!r} is no language model")
