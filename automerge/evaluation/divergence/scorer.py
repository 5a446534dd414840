"""KL(base ‖ merged) of next-token predictions, over the whole vocabulary, for a forward pass."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from automerge.errors import PreflightError
from automerge.evaluation.base import Backward, Live, NoRoom, Scored
from automerge.evaluation.divergence.states import KeptStates
from automerge.evaluation.guards import InvalidOutput
from automerge.evaluation.loglikelihood.batch_size import BatchSize, batches_of
from automerge.evaluation.loglikelihood.forward import (
    MAX_LOGITS,
    MIN_TOKENS,
    UNSUPPORTED,
    Path,
    longest_input,
    padded,
)
from automerge.evaluation.loglikelihood.graph import Graph, lean_layers
from automerge.evaluation.loglikelihood.packing import Pick, Row
from automerge.machine.allocation import is_out_of_memory
from automerge.objective import ItemScores
from automerge.trial import Items, Steering

LENGTH = 256
"""Most tokens of an item."""

LOGITS = 8
"""Copies of a batch's logits that are in memory at once: the two models', their logarithms,
probabilities, and what a pass backwards keeps of these."""

PROBE = 8
"""Tokens that a way of running the output head is tried on."""

Item: TypeAlias = tuple[str, int]
Piece: TypeAlias = tuple[int, ...]
Tokens: TypeAlias = Callable[[str, int], Piece]
"""From a leaf task and a doc id to token ids, at least one."""


def longest_sequence(model: PreTrainedModel, asked: int | None = None) -> int:
    """Return the most tokens of an item: `LENGTH`, or fewer where the model takes no more."""
    return min(n for n in (LENGTH, asked, longest_input(model)) if n)


def divergence(base: Tensor, merged: Tensor) -> Tensor:
    """Return Σ p (log p − log q) at every position, in nats (Kullback and Leibler 1951).

    Args:
        base: logits whose softmax is p, (positions, vocabulary).
        merged: logits whose softmax is q, alike.
    """
    known = base.float().log_softmax(-1)
    found = merged.float().log_softmax(-1)
    shares = known.exp()
    # Where p is 0 its logarithm may be −∞, and so may that of q.
    return torch.where(shares > 0, shares * (known - found), 0.0).sum(-1)


class DivergenceScorer:
    """Compares the predictions of the weights that a live model holds at the call with its base's.

    The base's last hidden states are computed once per item and kept in a file, and so is its
    output head, in memory: its logits at all positions then cost the head alone. Both models' go
    through what the architecture does after its head in one forward pass, and are exact.

    Args:
        live: whose `base` is compared with.
        members: leaf tasks of each objective.
        tokens: of the items of each objective.
        batch_size: items that are run together, at most, or "auto".
    """

    def __init__(
        self,
        live: Live,
        members: Mapping[str, Sequence[str]],
        tokens: Mapping[str, Tokens],
        batch_size: BatchSize,
    ) -> None:
        self._live, self._members = live, members
        self._sizes = batches_of(batch_size, live.model, live.cache_bytes)
        self._tokens = {leaf: tokens[name] for name, own in members.items() for leaf in own}
        self._pieces: dict[Item, Piece] = {}
        self._states = KeptStates()
        self._head = _checked_head(live.model)
        self._base_head: tuple[Tensor, Tensor | None] | None = None
        self._graph: Graph | None = None
        if live.graph_bytes is not None:
            self._graph = Graph(live.model, Path(self._head), live.graph_bytes)

    def score(self, items: Items) -> Scored:
        """Return the sum of each item's divergences, with its number of tokens as weight.

        Raises:
            InvalidOutput: a divergence is not finite.
        """
        return self._score(items, None)

    def score_with_slopes(self, items: Items, steering: Steering, backward: Backward) -> Scored:
        """Score as `score` does, and hand over the divergences themselves.

        Raises:
            NoRoom: one item keeps more than there is room for.
            InvalidOutput: a divergence is not finite.
        """
        del steering
        return self._score(items, backward)

    def _score(self, items: Items, backward: Backward | None) -> Scored:
        began = time.perf_counter()
        scores: dict[str, ItemScores] = {}
        losses: dict[str, float] = {}
        n_tokens = self._meet_base(items)
        graph = None if backward is None else self._graph
        for name, leaves in self._members.items():
            chosen = [(leaf, i) for leaf in leaves for i in items.get(leaf, ())]
            sums: dict[Item, float] = {}
            total = sum(len(self._piece(item)) for item in chosen)
            for batch, lean in self._batches(chosen, graph, backward is not None):
                with lean_layers(self._live.model) if lean else contextlib.nullcontext():
                    found = self._run(batch, backward is not None)
                    if backward is not None:
                        backward(name, found.sum() / total, False)
                sizes = [len(self._piece(item)) for item in batch]
                own = [float(part.sum()) for part in torch.split(found.detach().double(), sizes)]
                sums |= dict(zip(batch, own, strict=True))
            values = tuple(sums[item] for item in chosen)
            weights = tuple(float(len(self._piece(item))) for item in chosen)
            scores[name] = ItemScores(tuple(chosen), values, weights)
            if backward is not None and chosen:
                losses[name] = sum(values) / total
            n_tokens += total
        return Scored(scores, time.perf_counter() - began, tokens=n_tokens, losses=losses)

    def _piece(self, item: Item) -> Piece:
        if item not in self._pieces:
            self._pieces[item] = self._tokens[item[0]](*item)
        return self._pieces[item]

    @torch.no_grad()
    def _meet_base(self, items: Items) -> int:
        """Keep the base's states on items that are new; return how many tokens that took."""
        wanted = dict.fromkeys((leaf, i) for leaf in self._tokens for i in items.get(leaf, ()))
        new = [item for item in wanted if item not in self._states]
        if not new:
            return 0
        model, head = self._live.model, self._head
        with self._live.base():
            if self._base_head is None:
                bias = None if head.bias is None else head.bias.detach().clone()
                self._base_head = head.weight.detach().clone(), bias
            for batch, _ in self._batches(new, None, False):
                tokens, real = _filled_up([self._piece(item) for item in batch], model.device)
                with _before(head, real) as seen:
                    model(input_ids=tokens, use_cache=False)
                sizes = [len(self._piece(item)) for item in batch]
                for item, states in zip(batch, torch.split(seen[0], sizes), strict=True):
                    self._states[item] = states
        return sum(len(self._piece(item)) for item in new)

    def _run(self, batch: Sequence[Item], graph: bool) -> Tensor:
        """Return the divergence at every position of every item, one after the other."""
        model = self._live.model
        assert self._base_head is not None
        tokens, real = _filled_up([self._piece(item) for item in batch], model.device)
        states = torch.cat([self._states[item] for item in batch]).to(self._head.weight.device)
        with torch.set_grad_enabled(graph), _beside(self._head, real, states, self._base_head):
            logits = model(input_ids=tokens, use_cache=False).logits[0]
            merged, base = logits[: len(states)], logits[len(states) :]
            found = divergence(base.detach(), merged)
        if not found.isfinite().all():
            broken = int((~found.isfinite()).sum())
            raise InvalidOutput(
                f"divergence from the base not finite at {broken} of {len(found)} positions; the "
                "merged weights overflow or hold NaN"
            )
        return found

    def _batches(
        self, items: Sequence[Item], graph: Graph | None, slopes: bool
    ) -> Iterator[tuple[list[Item], bool]]:
        """Yield items to be run together, longest first, and whether layers are run again.

        Raises:
            NoRoom: what one item keeps does not fit.
        """
        order = sorted(items, key=lambda item: -len(self._piece(item)))
        if not order:
            return
        longest = len(self._piece(order[0]))
        vocabulary: int = self._live.model.config.get_text_config().vocab_size
        picked = MAX_LOGITS // vocabulary // (LOGITS if slopes else 2)
        limit = min(picked, max(MIN_TOKENS, self._sizes.requests(longest) * longest))

        def fits(length: int, count: int, lean: bool) -> bool:
            return graph is None or graph.fits(_rows(length, count), lean, LOGITS)

        lean = not fits(longest, 1, False)
        if lean and not fits(longest, 1, True):
            raise NoRoom
        batch: list[Item] = []
        for item in order:
            size, count = len(self._piece(batch[0] if batch else item)), len(batch) + 1
            if batch and (size * count > limit or not fits(size, count, lean)):
                yield batch, lean
                batch = []
            batch.append(item)
        yield batch, lean


def _rows(length: int, count: int) -> list[Row]:
    """Return as many rows of a length, of which every position is read."""
    numbers = tuple(range(length))
    return [Row((0,) * length, numbers, (length,) * length, (Pick(0, numbers),))] * count


def _filled_up(pieces: Sequence[Piece], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return token ids [rows, longest], filled up at their end, which a causal model does not look
    at, and where they are real."""
    longest = max(map(len, pieces))
    lengths = torch.tensor([len(piece) for piece in pieces])
    real = torch.arange(longest)[None] < lengths[:, None]
    return padded(pieces, longest, device), real.to(device)


@contextlib.contextmanager
def _before(head: nn.Linear, real: Tensor) -> Iterator[list[Tensor]]:
    """Yield a list that gets the states [positions, width] that the head is given; it is run on
    one of them."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen.append(args[0][real.to(args[0].device)])
        return (args[0][:1, :1], *args[1:])

    handle = head.register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


@contextlib.contextmanager
def _beside(
    head: nn.Linear, real: Tensor, states: Tensor, base: tuple[Tensor, Tensor | None]
) -> Iterator[None]:
    """Let the head give one row: logits of its own states, then those of a base's head and states.

    What an architecture does with logits after its head, such as capping them, it does with both.
    """

    def gather(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0][real.to(args[0].device)].unsqueeze(0), *args[1:])

    def add(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        del args
        with torch.no_grad():
            own = nn.functional.linear(states, *base).unsqueeze(0)
        return torch.cat([output, own], dim=1)

    handles = [head.register_forward_pre_hook(gather), head.register_forward_hook(add)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _checked_head(model: PreTrainedModel) -> nn.Linear:
    """Return the model's output head, after trying to run it beside itself.

    Raises:
        PreflightError: it is not a linear layer that gives the model's logits.
    """
    head = model.get_output_embeddings()
    if isinstance(head, nn.Linear):
        vocabulary: int = model.config.get_text_config().vocab_size
        tokens, real = _filled_up([tuple(range(min(PROBE, vocabulary)))], model.device)
        try:
            with _before(head, real) as seen:
                model(input_ids=tokens, use_cache=False)
            with _beside(head, real, seen[0], (head.weight, head.bias)):
                [found] = model(input_ids=tokens, use_cache=False).logits
            plain = model(input_ids=tokens, use_cache=False).logits[0]
        except UNSUPPORTED as error:
            if is_out_of_memory(error):
                raise
            plain, found = torch.empty(0), torch.empty(1)
        close = 1e-4 if model.dtype == torch.float32 else 0.1
        expected = torch.cat([plain, plain])
        if found.shape == expected.shape and torch.allclose(found, expected, close, close):
            return head
    raise PreflightError(
        f"kl_to_base cannot be measured on a {type(model).__name__}: its predictions are not a "
        "linear layer's of its last hidden states; remove kl_to_base from properties"
    )
