"""The class of a live model, and what kind of model that is: what can be asked of it follows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from automerge.checkpoints.architecture import (
    Architecture,
    architecture_of,
    at,
    model_class,
    named_class,
    read_config,
)
from automerge.checkpoints.reader import Checkpoint
from automerge.errors import PreflightError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class ModelKind(StrEnum):
    """What a live model does with text."""

    DECODER = "decoder"
    """A causal language model: says how likely the tokens of a text are, each after all before."""
    ENCODER_DECODER = "encoder-decoder"
    """Says how likely a text is as the answer to another, which an encoder reads."""
    OTHER = "other"
    """Says nothing of the kind: an encoder, a classifier, a model without its output head."""


def kind_of(kind: type[PreTrainedModel], config: PretrainedConfig) -> ModelKind:
    """Return what kind of model a class makes of a configuration."""
    import transformers

    if config.is_encoder_decoder:
        answers = _classes(transformers.AutoModelForSeq2SeqLM, config)
        return ModelKind.ENCODER_DECODER if kind in answers else ModelKind.OTHER
    causal = kind.can_generate() or kind.__name__.endswith("LMHeadModel")
    return ModelKind.DECODER if causal else ModelKind.OTHER


def live_class(config: PretrainedConfig, stored: Iterable[str]) -> type[PreTrainedModel]:
    """Return the class of a live model: the one that its configuration names.

    Where that is a model without a head ("LlamaModel"), it is its language model if all weights of
    that are stored.

    Args:
        config: the model's configuration.
        stored: the names of its tensors.

    Raises:
        PreflightError: transformers has no class for it.
    """
    named, headed = named_class(config), language_class(config)
    if named is None or named is headed:
        return headed
    return named if lacking(architecture_of(config, headed), stored) else headed


def language_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """Return the class that a configuration names, or the language model of one without a head.

    Raises:
        PreflightError: transformers has no class for it.
    """
    import transformers

    named = named_class(config)
    if named is not None and not named.__name__.endswith("Model"):
        return named
    auto = transformers.AutoModelForCausalLM
    if config.is_encoder_decoder:
        auto = transformers.AutoModelForSeq2SeqLM
    return next(iter(_classes(auto, config)), None) or named or model_class(config)


def lacking(own: Architecture, stored: Iterable[str]) -> list[str]:
    """Return the parameters of an architecture that are neither stored nor tied to one that is."""
    found = {key.live for key in own.keys(list(stored)).values() if key is not None}
    named = dict(own.model.named_parameters(remove_duplicate=False))
    filled = {own.ties.get(name, name) for name in named if name in found}
    return [
        name for name in named if own.ties.get(name, name) not in filled and not own.may_lack(name)
    ]


def checkpoint_class(checkpoint: Checkpoint) -> tuple[type[PreTrainedModel], ModelKind]:
    """Return the class of a checkpoint's live model, and its kind.

    Raises:
        PreflightError: transformers does not have the model; names its configuration's file.
    """
    try:
        config = read_config(checkpoint.config)
        kind = live_class(config, checkpoint.tensors)
    except PreflightError as error:
        raise at(checkpoint.assets / "config.json", error) from error
    return kind, kind_of(kind, config)


def require_decoder(checkpoint: Checkpoint, what: str) -> None:
    """Refuse a model that is no causal language model.

    Args:
        checkpoint: the model.
        what: what needs one, as the subject of a sentence.

    Raises:
        PreflightError: it has an encoder, or no output head.
    """
    name, kind = checkpoint_class(checkpoint)
    if kind is not ModelKind.DECODER:
        raise PreflightError(f"{checkpoint.path}: {no_decoder(name.__name__, kind, what)}")


def no_decoder(name: str, kind: ModelKind, what: str) -> str:
    """Say that something needs another kind of model than the one that a class makes."""
    has = "has an encoder" if kind is ModelKind.ENCODER_DECODER else "has no such output head"
    return f"{what} needs a causal language model (a decoder), and {name} {has}"


def headless(config: Mapping[str, Any], stored: Iterable[str]) -> str | None:
    """Return the name of the output head if a language model's tensors lack it; else None."""
    made = read_config(config)
    names = list(stored)
    own = architecture_of(made, live_class(made, names))
    head = own.model.get_output_embeddings()
    if head is None:
        return None
    absent = lacking(own, names)
    every = own.model.named_parameters(remove_duplicate=False)
    heads = [name for name, parameter in every if parameter is head.weight]
    return heads[-1] if heads and heads[0] in absent else None


def _classes(auto: Any, config: PretrainedConfig) -> tuple[type[PreTrainedModel], ...]:
    """Return the classes that one of transformers' automatic classes has for a configuration."""
    found = auto._model_mapping.get(type(config), ())
    return found if isinstance(found, tuple) else (found,)
