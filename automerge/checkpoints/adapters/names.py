"""The base's tensors, found by the names that adapters use for them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from automerge.checkpoints.architecture import architecture
from automerge.checkpoints.naming import find_keys
from automerge.checkpoints.reader import Checkpoint
from automerge.checkpoints.safetensors_file import TensorInfo
from automerge.checkpoints.vocabularies.alignment import tied
from automerge.checkpoints.vocabularies.tensors import VocabularyTensors, vocabulary_tensors
from automerge.errors import PreflightError


class BaseNames:
    """Finds tensors of a base, consulting its architecture only if names alone do not suffice."""

    def __init__(self, base: Checkpoint) -> None:
        self._base = base
        self.tensors: Mapping[str, TensorInfo] = base.tensors

    def find(self, name: str) -> str | None:
        """Return a tensor's name in the base, or of its tied head; None if there is no such tensor.

        An outer prefix such as "model." may be missing or extra. The spellings of other versions of
        transformers are recognised if it loads them as the same tensor.
        """
        if name in self.tensors:
            return name
        if (found := by_end(name, self.tensors)) is not None:
            return found
        if self.embedding is not None and name in self.vocabulary.heads:
            return name
        live = self._live((name,)).get(name)
        return self._by_live.get(live) if live is not None else None

    def info(self, name: str) -> TensorInfo:
        """Return a tensor's shape and dtype; a tied head has its embedding's."""
        return self.tensors[self.origin(name)]

    def origin(self, name: str) -> str:
        """Return the stored tensor that a tensor is in the base; a tied head is the embedding."""
        if name in self.tensors or self.embedding is None:
            return name
        return self.embedding

    @cached_property
    def embedding(self) -> str | None:
        """The embedding that the base's head is tied to; None if it is not tied."""
        if not tied(self._base):
            return None
        return next((n for n in self.vocabulary.embeddings if n in self.tensors), None)

    @cached_property
    def vocabulary(self) -> VocabularyTensors:
        """The tensors with a row per token; none if transformers does not know them."""
        try:
            return vocabulary_tensors(self._base.config, self.tensors)
        except PreflightError:
            return VocabularyTensors((), (), ())

    def transposed(self, name: str, otherwise: bool) -> bool:
        """Return whether a square weight is stored transposed (Conv1D) in its architecture.

        If the architecture is not known, return `otherwise`.
        """
        from transformers.pytorch_utils import Conv1D

        live = self._live((name,)).get(name)
        if self._model is None or live is None:
            return otherwise
        return isinstance(self._model.get_submodule(live.rpartition(".")[0]), Conv1D)

    @cached_property
    def _model(self) -> Any:
        try:
            return architecture(self._base.config).model
        except PreflightError:
            return None

    @cached_property
    def _by_live(self) -> Mapping[str, str]:
        return {live: name for name, live in self._live(tuple(self.tensors)).items()}

    def _live(self, names: tuple[str, ...]) -> Mapping[str, str]:
        if self._model is None:
            return {}
        keys = find_keys(self._model, names).items()
        return {name: key.live for name, key in keys if key is not None and key.live == key.part}


def by_end(name: str, names: Mapping[str, TensorInfo]) -> str | None:
    """Return the only one of `names` that differs in its outer prefix; None if there isn't one."""
    found = [n for n in names if name.endswith(f".{n}") or n.endswith(f".{name}")]
    return found[0] if len(found) == 1 else None
