"""Evidence of models, gathered on text and kept in the cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from automerge.errors import PreflightError
from automerge.evidence import KINDS, EvidenceFile, EvidenceFolders, cache_folder, write_evidence
from automerge.evidence.gather import Text, gather_input_gram, read_text, sequences
from automerge.recipe import BASE, single

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from automerge.merging import ResidentEngine

GATHERED = {"input_gram": gather_input_gram}
"""What gathers each kind, from a live model, its tensors and sequences of tokens."""


@dataclass(frozen=True)
class GatherSettings:
    """How much text evidence is gathered on, and on what device."""

    tokens: int = 65_536
    length: int = 512
    device: str = "auto"


Progress = Callable[[str, int, int], None]
"""Told a model's name, and its sequences done and in total."""


def gather(
    folders: Mapping[str, Path],
    names: tuple[str, ...],
    kind: str,
    text: Path,
    settings: GatherSettings,
    progress: Progress | None = None,
) -> dict[str, EvidenceFile]:
    """Gather one kind of evidence of some models, unless the cache has it already.

    Args:
        folders: models by name, `base` among them: sources are merged into its live model.
        names: the models whose evidence is wanted.
        kind: one of `automerge.evidence.KINDS`.
        text: a file, or a folder of text files; every model reads it with the base's tokenizer.

    Raises:
        PreflightError: the text cannot be read, or a model cannot be loaded.
    """
    from automerge.checkpoints import sampled_digest

    read = read_text(text)
    cache = cache_folder()
    origins = {
        name: {
            "model": sampled_digest(folders[name]),
            "base": sampled_digest(folders[BASE]),
            "text": read.digest,
            "kind": kind,
            "version": KINDS[kind].version,
            "tokens": settings.tokens,
            "length": settings.length,
        }
        for name in names
    }
    found = {name: _cached(cache, origin) for name, origin in origins.items()}
    missing = tuple(name for name, file in found.items() if file is None)
    if missing:
        live = _Live(folders, settings.device)
        for name in missing:
            watch = None if progress is None else _named(progress, name)
            file = live.gather(name, kind, read, settings, origins[name], cache, watch)
            found[name] = file
            (cache / f"{_key(origins[name])}.json").write_text(json.dumps(file.digest))
    return {name: file for name, file in found.items() if file is not None}


def _named(progress: Progress, name: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(name, done, total)


def _key(origin: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()[:32]


def _cached(cache: Path, origin: Mapping[str, object]) -> EvidenceFile | None:
    try:
        digest = json.loads((cache / f"{_key(origin)}.json").read_text())
        return EvidenceFolders([cache])[str(digest)]
    except (OSError, ValueError, PreflightError):
        return None  # made again


class _Live:
    """The base's live model, into which one source after the other is merged."""

    def __init__(self, folders: Mapping[str, Path], device: str) -> None:
        import transformers

        from automerge.checkpoints import open_together
        from automerge.merging import ResidentEngine
        from automerge.worker.worker import choose_device, compute_dtype, load_model

        checkpoints = open_together(folders, BASE)
        assets = checkpoints[BASE].assets
        chosen = choose_device(device)
        self._model: PreTrainedModel = load_model(
            folders[BASE], assets, compute_dtype("auto", chosen)
        )
        self._model.to(chosen).eval().requires_grad_(False)
        self._tokenizer: PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(
            assets, local_files_only=True, trust_remote_code=False
        )
        self._engine: ResidentEngine = ResidentEngine(checkpoints)

    def gather(
        self,
        name: str,
        kind: str,
        text: Text,
        settings: GatherSettings,
        origin: Mapping[str, object],
        cache: Path,
        progress: Callable[[int, int], None] | None,
    ) -> EvidenceFile:
        self._engine.merge_into(self._model, single(name))
        tensors = self._engine.tensors(self._model)
        pieces = list(sequences(text, self._tokenizer, settings.length, settings.tokens))
        gathered = GATHERED[kind](self._model, tensors, pieces, progress)
        return write_evidence(cache, kind, origin, gathered)
