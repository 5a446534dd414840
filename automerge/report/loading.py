"""How transformers loads a model, and what the hub calls its task: read from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

TASKS: Mapping[str, str] = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForImageClassification": "image-classification",
    "ForMaskedLM": "fill-mask",
    "Model": "feature-extraction",
}
"""The hub's names of tasks, by how the name of a class ends."""


class Loading(NamedTuple):
    """A class of transformers, and the hub's name for what its models do."""

    loader: str
    task: str


def loading(config: Mapping[str, Any]) -> Loading:
    """Return how a model with a configuration is loaded.

    A model is loaded by the class that its configuration names; a causal language model, or one
    whose configuration names none, by the automatic class for these.
    """
    named = config.get("architectures")
    name = named[0] if isinstance(named, list) and named else None
    if not isinstance(name, str) or not name.isidentifier() or name.endswith("ForCausalLM"):
        return Loading("AutoModelForCausalLM", "text-generation")
    task = next((task for ending, task in TASKS.items() if name.endswith(ending)), None)
    if task is None and config.get("is_encoder_decoder"):
        task = "text2text-generation"
    return Loading(name, task or "text-generation")
