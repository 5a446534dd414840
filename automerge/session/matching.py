"""Alignments by activations: the base and a source, both live, on the same text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from automerge.checkpoints.symmetries.activations import ActivationMatching, taps
from automerge.checkpoints.symmetries.descent import Pair
from automerge.errors import PreflightError
from automerge.evidence.correlation import correlation_bytes, gather_correlation
from automerge.evidence.gather import linear_layers, read_text, sequences
from automerge.evidence.parts import packed
from automerge.merging.memory import estimate, free_device_bytes, free_host_bytes, gb
from automerge.recipe import BASE, single
from automerge.session.gathering import GatherSettings, Progress, load_base, room_for_sums

if TYPE_CHECKING:
    from automerge.checkpoints import Checkpoint
    from automerge.checkpoints.symmetries.roles import Anatomy
    from automerge.checkpoints.symmetries.transform import Transform


@dataclass(frozen=True)
class TextReading:
    """Aligns sources by activations on text; see `checkpoints.symmetries.kept.Reading`.

    Attributes:
        texts: a file, or a folder of text files, per source; None for all that are not named.
        settings: how much of the texts is read, and on what device.
        progress: told a source's name, and sequences done and in total, in each pass.
    """

    texts: Mapping[str | None, Path]
    settings: GatherSettings
    progress: Progress | None = None

    def key(self, name: str) -> str:
        """Return a digest of a source's text, and how much of it is read."""
        digest = read_text(self._text(name)).digest
        return f"{digest} {self.settings.tokens} {self.settings.length}"

    def align(self, name: str, base: Checkpoint, source: Checkpoint, body: Anatomy) -> Transform:
        """Run both models on the source's text, as often as memory for correlations demands.

        Raises:
            PreflightError: there is no text for it, or no memory for both models.
        """
        from automerge.merging import ResidentEngine

        self._check_room(base)
        ours, tokenizer = load_base(base, self.settings.device)
        theirs, _ = load_base(base, self.settings.device)
        engine = ResidentEngine({BASE: base, name: source})
        engine.merge_into(ours, single(BASE))
        engine.merge_into(theirs, single(name))
        seen = taps(body)
        layers = [
            linear_layers(
                model, {n: t for n, t in engine.tensors(model).items() if n in seen}, True
            )
            for model in (ours, theirs)
        ]
        text = read_text(self._text(name))
        pieces = list(sequences(text, tokenizer, self.settings.length, self.settings.tokens))
        longest = max(map(len, pieces))
        axis = 0 if body.transposed else 1
        sizes = {n: correlation_bytes(body.lengths[n][axis], longest) for n in layers[0]}
        watch = None if self.progress is None else partial(self.progress, name)
        found = ActivationMatching(body)
        for group in packed(f"the correlation of {name}", sizes, room_for_sums(ours)):
            both = {tensor: (layers[0][tensor], layers[1][tensor]) for tensor in group}
            for tensor, correlation in gather_correlation(
                ours, theirs, both, pieces, watch
            ).items():
                found.see(tensor, correlation)
        return found.transform(Pair(body, base.read, source.read))

    def _text(self, name: str) -> Path:
        path = self.texts.get(name) or self.texts.get(None)
        if path is None:
            raise PreflightError(
                f"there is no text to match its activations on: name one for {name}, or for all"
            )
        return path

    def _check_room(self, base: Checkpoint) -> None:
        """Refuse models of which two do not fit into memory."""
        from automerge.worker.worker import choose_device, compute_dtype

        device = choose_device(self.settings.device)
        dtype = str(compute_dtype("auto", device)).removeprefix("torch.")
        need = 2 * estimate({BASE: base}, BASE, dtype, ()).live
        free = free_host_bytes() if device == "cpu" else free_device_bytes(device)
        if free is not None and need > free:
            raise PreflightError(
                "activations are matched with both models in memory, which takes "
                f"{gb(need)}, but only {gb(free, int)} is free: stop other programs or use a "
                "larger machine, or git_rebasin, which compares weights"
            )
