"""Adapters as checkpoints, merged into their base.

LoRA is base + scale · B·A (Hu et al. 2022, arXiv:2106.09685); IA³ scales the inputs or the outputs
of modules (Liu et al. 2022, arXiv:2205.05638).
"""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from automerge.checkpoints.adapters.folder import WEIGHTS, check_adapter, trained_on_another
from automerge.checkpoints.adapters.names import BaseNames
from automerge.checkpoints.adapters.options import CONFIG, read_settings
from automerge.checkpoints.adapters.tensors import Adapted, connect
from automerge.checkpoints.folder.files import (
    carried,
    copy_carried,
    is_template_file,
    is_tokenizer_file,
)
from automerge.checkpoints.low_rank import LowRank
from automerge.checkpoints.reader import Checkpoint
from automerge.checkpoints.safetensors_file import TensorInfo, read_header
from automerge.checkpoints.vocabularies.size import resized
from automerge.checkpoints.vocabularies.tokenizers import vocabulary_files
from automerge.errors import Fault, PreflightError

if TYPE_CHECKING:
    from torch import Tensor

TIE = "tie_word_embeddings"


class AdapterCheckpoint:
    """A base checkpoint with a PEFT adapter merged into it.

    Only factors and scales stay in memory; a merged tensor is computed in float32 when it is read,
    and rounded once to the base's dtype. An adapter may untie the head, resize the embedding and
    have its own tokenizer; configuration and tokenizer are then in a temporary folder that lives
    as long as the checkpoint. `notes` are for the user.

    Args:
        path: the adapter's folder.
        base: the model that it is added to.

    Raises:
        PreflightError: with every fault found.
    """

    def __init__(self, path: Path, base: Checkpoint) -> None:
        self.path = path
        self._base = base
        check_adapter(path)
        settings = read_settings(path / CONFIG)
        self._names = BaseNames(base)
        header = read_header(path / WEIGHTS)
        adapted, faults = connect(settings, header, self._names, self._stored)
        if adapted is None:
            raise PreflightError(Fault(f"{path / WEIGHTS}: {fault}") for fault in faults)
        self._changes = adapted.changes
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(adapted.tensors)
        self.config = adapted_config(base.config, adapted)
        self.assets = self._own_assets(adapted)
        self.notes = trained_on_another(settings.base, base.path)

    def read(self, name: str) -> Tensor:
        """Return one tensor: the base's, with the adapter's changes if there are any."""
        tensor = self._base.read(self._names.origin(name))
        change = self._changes.get(name)
        return tensor if change is None else change.apply(tensor, self._stored)

    def update(self, name: str) -> LowRank | None:
        """Return a tensor's factors, views of the file; None unless it is changed by them alone."""
        change = self._changes.get(name)
        if change is None or not change.low_rank:
            return None
        return change.update(self._base.read(self._names.origin(name)), self._stored)

    def rearranged(self, name: str) -> bool:
        """Return whether a tensor is computed when it is read, and is not a low-rank update."""
        return name in self._changes and self._changes[name].computed

    def _stored(self, key: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(key)
        return tensor

    @cached_property
    def _file(self) -> Any:
        from safetensors import safe_open

        return safe_open(self.path / WEIGHTS, framework="pt", device="cpu")

    def _own_assets(self, adapted: Adapted) -> Path:
        """Return the base's folder, or a new one if configuration or tokenizer are changed."""
        own = bool(vocabulary_files(self.path))
        if not own and adapted.rows is None and not adapted.untied:
            return self._base.assets
        folder = Path(tempfile.mkdtemp(prefix="automerge-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        copy_carried(carried(self._base.assets), folder, lambda n: not (own and is_text_file(n)))
        if own:
            copy_carried(carried(self.path), folder, is_text_file)
        (folder / "config.json").write_text(json.dumps(dict(self.config), indent=2), "utf-8")
        return folder

    def __reduce__(self) -> tuple[type[AdapterCheckpoint], tuple[Path, Checkpoint]]:
        return AdapterCheckpoint, (self.path, self._base)


def is_text_file(name: str) -> bool:
    """Return whether a file belongs to a tokenizer or is a chat template."""
    return is_tokenizer_file(name) or is_template_file(name)


def adapted_config(config: Mapping[str, Any], adapted: Adapted) -> Mapping[str, Any]:
    """Return the base's configuration with an adapter's changes."""
    if adapted.rows is not None:
        config = resized(config, adapted.rows)
    if adapted.untied:
        text = config.get("text_config")
        config = {**config, TIE: False}
        if isinstance(text, Mapping) and TIE in text:
            config = {**config, "text_config": {**text, TIE: False}}
    return config
