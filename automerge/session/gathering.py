"""Evidence of models, gathered on text and kept in the cache."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from automerge.errors import PreflightError
from automerge.evidence import (
    ACTIVATIONS,
    KINDS,
    EvidenceFile,
    EvidenceFolders,
    cache_folder,
    write_evidence,
)
from automerge.evidence.activations import first_pieces, gather_activations
from automerge.evidence.file import PIECES, writing_to
from automerge.evidence.gather import (
    Text,
    gather_hidden_state,
    gather_input_gram,
    read_text,
    sequences,
)
from automerge.evidence.gradients import gather_gradient, gather_squared_gradient
from automerge.evidence.masks import gather_squared_mask_gradient
from automerge.evidence.parts import Parts, groups
from automerge.evidence.routing import gather_routing
from automerge.recipe import BASE, single

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from automerge.checkpoints import Checkpoint
    from automerge.merging import ResidentEngine

GATHERED: Mapping[str, Callable[..., dict[str, Tensor]]] = {
    "activations": gather_activations,
    "input_gram": gather_input_gram,
    "squared_gradient": gather_squared_gradient,
    "base_squared_gradient": gather_squared_gradient,
    "base_gradient": gather_gradient,
    "gradient": gather_gradient,
    "squared_mask_gradient": gather_squared_mask_gradient,
    "hidden_state": gather_hidden_state,
    "routing": gather_routing,
}
"""What gathers each kind, from a live model, its tensors and sequences of tokens."""

SHARE = 0.5
"""The share of the memory that a live model leaves free that sums may fill; what does not fit is
gathered in another pass over the text. The rest is for activations and gradients."""


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
    texts: Mapping[str | None, Path],
    settings: GatherSettings,
    progress: Progress | None = None,
    aligned: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, EvidenceFile]:
    """Gather one kind of evidence of some models, unless the cache has it already.

    What an earlier call did before it was stopped is not done again.

    Args:
        folders: models by name, `base` among them: sources are merged into its live model.
        names: the models whose evidence is wanted.
        kind: one of `automerge.evidence.KINDS`.
        texts: a file, or a folder of text files, per model; None for all that are not named. Every
            model reads with the base's tokenizer.
        settings: how much of the texts is read.
        progress: told how far it is.
        aligned: how models are aligned with the base, by name, with digests.

    Raises:
        PreflightError: a text cannot be read, a model cannot be loaded, has a tensor that is not
            finite or nothing of this kind, it takes too much memory, or the cache cannot be
            written to, which is known before a text is read by a model.
    """
    from automerge.checkpoints import sampled_digest

    read = {path: read_text(path) for path in dict.fromkeys(texts.values())}
    own = {name: read[texts.get(name) or texts[None]] for name in names}
    models = {name: BASE if KINDS[kind].at == "base" else name for name in names}
    cache = cache_folder()
    origins = {
        name: {
            "model": sampled_digest(folders[models[name]]),
            "base": sampled_digest(folders[BASE]),
            "text": own[name].digest,
            "kind": kind,
            "version": KINDS[kind].version,
            "tokens": settings.tokens,
            "length": settings.length,
            **({"align": aligned[name]} if name in aligned and models[name] == name else {}),
        }
        for name in names
    }
    found: dict[str, EvidenceFile] = {}
    live: _Live | None = None
    for name, origin in origins.items():
        file = _cached(cache, origin)
        if file is None:
            _require_writable(cache)
            live = live or _Live(folders, settings.device, aligned)
            watch = None if progress is None else partial(progress, name)
            file = live.gather(models[name], kind, own[name], settings, origin, cache, watch)
            with writing_to(cache):
                (cache / f"{_key(origin)}.json").write_text(json.dumps(file.digest))
        found[name] = file
    return found


def _require_writable(folder: Path) -> None:
    with writing_to(folder), tempfile.TemporaryFile(dir=folder):
        pass


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

    def __init__(
        self, folders: Mapping[str, Path], device: str, aligned: Mapping[str, str]
    ) -> None:
        from automerge.checkpoints import open_together
        from automerge.merging import ResidentEngine

        checkpoints = open_together(folders, BASE, aligned)
        self._model, self._tokenizer = load_base(checkpoints[BASE], device)
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
        from automerge.merging import InvalidMerge

        try:
            self._engine.merge_into(self._model, single(name))
        except InvalidMerge as error:
            raise PreflightError(
                f"{name}: tensor {error.tensor!r} is not finite (NaN or infinite); download the "
                "model again or leave it out"
            ) from error
        tensors = self._engine.tensors(self._model)
        pieces = list(sequences(text, self._tokenizer, settings.length, settings.tokens))
        folder = cache / f"parts-{_key(origin)}"
        parts = Parts(folder)
        shapes = {n: tuple(t.shape) for n, t in tensors.items() if n not in parts.done}
        for group in groups(KINDS[kind], shapes, room_for_sums(self._model)):
            wanted = {name: tensors[name] for name in group}
            parts.add(group, GATHERED[kind](self._model, wanted, pieces, progress))
        if not parts:
            raise PreflightError(
                f"{name}: this model has nothing of the kind {kind} "
                f"({KINDS[kind].meaning}); choose another kind of evidence"
            )
        if kind == ACTIVATIONS.name:
            origin = {**origin, PIECES: first_pieces(pieces)}
        file = write_evidence(cache, kind, origin, parts)
        shutil.rmtree(folder, ignore_errors=True)
        return file


def load_base(base: Checkpoint, device: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a base that sources are merged into, for reading text, and its tokenizer.

    Raises:
        PreflightError: it is no causal language model, or cannot be loaded.
    """
    import transformers

    from automerge.checkpoints.kinds import require_decoder
    from automerge.worker.worker import choose_device, compute_dtype, load_model

    require_decoder(base, "reading text")
    chosen = choose_device(device)
    model = load_model(base.path, base.assets, compute_dtype("auto", chosen))
    model.to(chosen).eval().requires_grad_(False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        base.assets, local_files_only=True, trust_remote_code=False
    )
    return model, tokenizer


def room_for_sums(model: PreTrainedModel) -> int | None:
    """Return the bytes that sums may fill, on a model's device and on the host; None if unknown."""
    from automerge.merging.memory import free_device_bytes, free_host_bytes

    free = (free_host_bytes(), free_device_bytes(model.device.type))
    known = [size for size in free if size is not None]
    return int(SHARE * min(known)) if known else None
