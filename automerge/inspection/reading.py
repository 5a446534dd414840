"""A base's live model, and the text that belongs to each source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from automerge.checkpoints import Checkpoint, open_together, resolve
from automerge.errors import ConfigError, Fault
from automerge.evidence.activations import TOKENS
from automerge.evidence.gather import Text, read_text, sequences
from automerge.merging import ResidentEngine
from automerge.recipe import BASE
from automerge.session.gathering import GatherSettings, load_base


@dataclass(frozen=True)
class Reading:
    """A base's live model that sources can be merged into, and each source's text.

    Attributes:
        checkpoints: base and sources, with the base's vocabulary; the base is `BASE`.
        model: the live model.
        engine: what merges into it.
        pieces: sequences of the base's token ids, by source; up to `TOKENS` of each text.
    """

    checkpoints: Mapping[str, Checkpoint]
    model: PreTrainedModel
    engine: ResidentEngine
    pieces: Mapping[str, Sequence[Sequence[int]]]


def open_reading(
    option: str,
    references: Mapping[str, str],
    texts: Mapping[str | None, Path],
    device: str,
    least: int = 1,
) -> Reading:
    """Open models, load the base, and read each source's text with the base's tokenizer.

    Args:
        option: what asks for it, for messages.
        references: paths or hub ids by name, the base first.
        texts: a file, or a folder of text files, per source; None for all that are not named.
        device: "auto", "cpu" or "cuda".
        least: how many sources are needed.

    Raises:
        ConfigError: there are too few sources, or texts do not belong to sources.
        PreflightError: a model or a text cannot be read, or the base is no causal language model.
    """
    base, *sources = references
    own = _own_texts(option, sources, texts, least)
    folders = {BASE: resolve(references[base]).path}
    folders |= {name: resolve(references[name]).path for name in sources}
    checkpoints = open_together(folders, BASE, {})
    model, tokenizer = load_base(checkpoints[BASE], device)
    length = GatherSettings().length
    pieces = {name: list(sequences(text, tokenizer, length, TOKENS)) for name, text in own.items()}
    return Reading(checkpoints, model, ResidentEngine(checkpoints), pieces)


def _own_texts(
    option: str, sources: list[str], texts: Mapping[str | None, Path], least: int
) -> dict[str, Text]:
    faults = [
        Fault(f"{option} {name}=…: there is no source {name!r}; the sources are {sources}")
        for name in texts
        if name is not None and name not in sources
    ]
    lacking = [name for name in sources if name not in texts]
    if lacking and None not in texts:
        said = ", ".join(lacking)
        faults.append(Fault(f"{option}: no text for {said}; add NAME=TEXT, or one TEXT for all"))
    if len(sources) < least:
        faults.append(
            Fault(f"{option}: expected two sources or more, got one: name those to merge")
        )
    if faults:
        raise ConfigError(faults)
    read = {path: read_text(path) for path in dict.fromkeys(texts.values())}
    return {name: read[texts.get(name) or texts[None]] for name in sources}
