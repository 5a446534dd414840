"""Losses of a live model's predictions on text, and their slopes in the numbers of its recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from automerge.evaluation.loglikelihood.graph import lean_layers
from automerge.merging import InvalidMerge, ResidentEngine
from automerge.recipe import Coordinate, Recipe, single
from automerge.refinement import losses
from automerge.refinement.pieces import Piece, Pieces, batches
from automerge.refinement.room import Room

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Text:
    """A text's sequences, and the sources whose predictions on it are wanted (`kl` only)."""

    name: str
    pieces: Pieces
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Aim:
    """One mean that a loss is made of: over a text, and for `kl` also a source; all weigh alike."""

    text: int
    source: str | None


@dataclass(frozen=True)
class Measure:
    """Sums over the positions of each sequence of a part: of the loss, and of −log p, in nats."""

    losses: tuple[float, ...]
    nll: tuple[float, ...]
    positions: tuple[int, ...]

    @property
    def loss(self) -> float:
        """The mean loss per position."""
        return math.fsum(self.losses) / sum(self.positions)

    @property
    def mean_nll(self) -> float:
        """The mean −log p per position."""
        return math.fsum(self.nll) / sum(self.positions)

    def difference(self, before: Measure) -> tuple[float, float]:
        """Return how much the mean loss grew since, and that difference's standard error.

        The error is that of a ratio of means over sequences, which are the same in both.
        """
        total, n = sum(self.positions), len(self.positions)
        grown = [a - b for a, b in zip(self.losses, before.losses, strict=True)]
        mean = math.fsum(grown) / total
        squares = ((d - mean * size) ** 2 for d, size in zip(grown, self.positions, strict=True))
        return mean, math.sqrt(math.fsum(squares) * n / max(1, n - 1)) / total


class TextObjective:
    """Merges recipes into a live model and runs it on texts.

    Args:
        model: live, with no gradients required.
        engine: merges into it.
        loss: one of `losses.LOSSES`.
        texts: what it is run on; the mean of all means over a text and source is the loss.
        tokens: per batch, about, of all texts together.
        seed: of the order of sequences.
        room: what fits into memory at once; a batch is run in as many parts as this takes.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        engine: ResidentEngine,
        loss: str,
        texts: Sequence[Text],
        tokens: int,
        seed: int,
        room: Room,
    ) -> None:
        self._model, self._engine, self._loss, self._texts = model, engine, loss, texts
        self._room = room
        self.aims = tuple(
            Aim(i, source)
            for i, text in enumerate(texts)
            for source in (text.sources if loss == "kl" else (None,))
        )
        each = max(1, tokens // len(texts))
        self._batches = [batches(text.pieces.train, each, seed + i) for i, text in enumerate(texts)]
        self._predictions: dict[tuple[str, Piece], losses.Prediction] = {}

    @property
    def prediction_bytes(self) -> int:
        """How much the sources' predictions take."""
        each = losses.kept_bytes(self._model.config.get_text_config().vocab_size)
        return each * sum(
            len(piece) - 1
            for aim in self.aims
            if aim.source is not None
            for part in self._all(aim.text)
            for piece in part
        )

    def _all(self, text: int) -> tuple[tuple[Piece, ...], ...]:
        parts = self._texts[text].pieces
        return parts.train, parts.check, parts.held

    @torch.no_grad()
    def predict(self, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Keep the predictions of each source on its texts, for `kl`; the model is overwritten."""
        wanted: dict[str, list[Piece]] = {}
        for aim in self.aims:
            if aim.source is not None:
                wanted.setdefault(aim.source, []).extend(
                    p for part in self._all(aim.text) for p in part
                )
        total, done = sum(map(len, wanted.values())), 0
        for source, pieces in wanted.items():
            self._engine.merge_into(self._model, single(source))
            for batch in self._parts(pieces):
                logits, _ = self._run(batch)
                for piece, own in zip(batch, torch.tensor_split(logits, _ends(batch)), strict=True):
                    self._predictions[source, piece] = losses.prediction(own)
                done += len(batch)
                progress(done, total)

    def slopes(self, recipe: Recipe) -> tuple[float, Mapping[Coordinate, float]]:
        """Return the loss on the next batch, and its slopes."""
        pieces = [next(stream) for stream in self._batches]
        try:
            self._engine.merge_into(self._model, recipe)
        except InvalidMerge:
            return math.inf, {}
        value = 0.0
        total: dict[Coordinate, float] = {}
        lean = lean_layers(self._model) if self._room.lean else nullcontext()
        with self._engine.contraction(self._model, recipe) as contraction, lean:
            for i, batch in enumerate(pieces):
                positions = sum(len(piece) - 1 for piece in batch)
                share = 1 / (len(self.aims) * positions)
                for part in self._parts(batch):
                    with torch.enable_grad():
                        found, _ = self._losses(i, part)
                        loss = share * torch.stack([own.sum() for own in found.values()]).sum()
                    value += float(loss.detach())
                    for at, slope in contraction.slopes(loss).items():
                        total[at] = total.get(at, 0.0) + slope
        return value, total

    def check(self, recipe: Recipe) -> float:
        """Return the loss on the text that chooses; infinity where the merge is not finite."""
        try:
            found = self.measure(recipe, "check")
        except InvalidMerge:
            return math.inf
        return math.fsum(one.loss for one in found.values()) / len(found)

    @torch.no_grad()
    def measure(self, recipe: Recipe, part: str) -> dict[Aim, Measure]:
        """Measure a recipe on the `check` or `held` part of every text.

        Raises:
            InvalidMerge: the merge is not finite.
        """
        self._engine.merge_into(self._model, recipe)
        found: dict[Aim, Measure] = {}
        for i, text in enumerate(self._texts):
            pieces: tuple[Piece, ...] = getattr(text.pieces, part)
            aims = [aim for aim in self.aims if aim.text == i]
            sums: dict[Aim | None, list[float]] = {aim: [] for aim in (*aims, None)}
            positions: list[int] = []
            for batch in self._parts(pieces):
                sizes = [len(piece) - 1 for piece in batch]
                own, nll = self._losses(i, batch)
                for aim, values in (*own.items(), (None, nll)):
                    sums[aim] += [
                        float(v.double().sum()) for v in torch.tensor_split(values, _ends(batch))
                    ]
                positions += sizes
            for aim in aims:
                found[aim] = Measure(tuple(sums[aim]), tuple(sums[None]), tuple(positions))
        return found

    def _losses(self, text: int, batch: Sequence[Piece]) -> tuple[dict[Aim, Tensor], Tensor]:
        """Return the loss of each aim of a text at every position, and −log p."""
        logits, following = self._run(batch)
        nll = losses.nll(logits, following)
        found = {}
        for aim in self.aims:
            if aim.text != text:
                continue
            if aim.source is not None:
                found[aim] = losses.kl(logits, self._kept(aim.source, batch))
            else:
                found[aim] = nll if self._loss == "nll" else losses.entropy(logits)
        return found, nll.detach()

    def _kept(self, source: str, batch: Sequence[Piece]) -> losses.Prediction:
        own = [self._predictions[source, piece] for piece in batch]
        rests = [one.rest for one in own if one.rest is not None]
        return losses.Prediction(
            torch.cat([one.tokens for one in own]),
            torch.cat([one.logs for one in own]),
            torch.cat(rests) if rests else None,
        )

    def _run(self, batch: Sequence[Piece]) -> tuple[Tensor, Tensor]:
        """Return logits (positions, vocabulary) and the tokens that follow, piece by piece.

        Pieces are filled up at their end, which a causal model does not look at.
        """
        device, longest = self._model.device, max(map(len, batch))
        tokens = torch.tensor([[*piece, *(0,) * (longest - len(piece))] for piece in batch])
        lengths = torch.tensor([len(piece) for piece in batch])
        real = torch.arange(longest - 1)[None] < lengths[:, None] - 1
        rows: Any = self._model(input_ids=tokens.to(device), use_cache=False)
        return rows.logits[:, :-1][real.to(device)], tokens[:, 1:][real].to(device)

    def _parts(self, pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
        """Divide sequences into those that are run together, longest first."""
        part: list[Piece] = []
        for piece in sorted(pieces, key=lambda piece: -len(piece)):
            if part and (len(part) + 1) * len(part[0]) > self._room.tokens:
                yield part
                part = []
            part.append(piece)
        if part:
            yield part


def _ends(batch: Sequence[Piece]) -> list[int]:
    """Return where the positions of each sequence but the last end."""
    return list(accumulate(len(piece) - 1 for piece in batch))[:-1]
