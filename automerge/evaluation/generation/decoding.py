"""Greedy decoding of many answers: one that ends makes room for the next at once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from automerge.evaluation.generation.asks import Ask, Stops
from automerge.evaluation.generation.plan import Plan, own, shares
from automerge.evaluation.generation.slots import Layer, Slots
from automerge.evaluation.loglikelihood.forward import padded

BLOCK_TOKENS = 2**12
"""Most tokens of prompts that are run together, unless one column has more."""

MAX_SCORES = 2**24
"""Most attention scores of a layer at once while prompts are run, on a CPU with small caches."""
MAX_DEVICE_SCORES = 2**28
"""The same on a GPU."""

REFILL = 8
"""Prompts are begun once one row in this many is free: a call for one row costs nearly as much as a
step of all."""


@dataclass(eq=False)
class _Row:
    """An answer under way: whose it is, the token to run next, and the column of that."""

    number: int
    token: int
    column: int
    answer: list[int] = field(default_factory=list)


class Decoder:
    """Answers asks with a model that attends through `Slots`, within `slots.attending`.

    Args:
        model: in evaluation mode.
        plan: rows, their length, and the prefix.
        ends: token ids that end an answer.
        penalty: logits of tokens that occurred are divided by it, or multiplied if negative
            (Keskar et al. 2019, arXiv:1909.05858); 1 is none.
    """

    def __init__(
        self, model: PreTrainedModel, plan: Plan, ends: Collection[int], penalty: float = 1.0
    ) -> None:
        self._model, self._plan = model, plan
        self._ends, self._penalty = frozenset(ends), penalty
        self._slots = Slots(plan.rows, plan.length, self._prefix())
        self._rows: list[_Row] = []
        self._seen: Tensor | None = None

    def run(self, asks: Sequence[Ask], stops: Sequence[Stops]) -> Iterator[tuple[int, list[int]]]:
        """Yield the number of an ask and its answer's tokens, as soon as each has ended.

        Args:
            asks: what is asked, begun first to last.
            stops: for each, what finds its end.
        """
        waiting = list(range(len(asks)))[::-1]
        while waiting or self._rows:
            free = self._plan.rows - len(self._rows)
            if waiting and (free * REFILL >= self._plan.rows or not self._rows):
                self._begin(asks, [waiting.pop() for _ in range(min(free, len(waiting)))])
            self._step()
            for place in reversed(range(len(self._rows))):
                row = self._rows[place]
                ended = row.token in self._ends or len(row.answer) >= asks[row.number].limit
                if ended or stops[row.number].end(row.answer):
                    self._remove(place)
                    yield row.number, row.answer

    def _prefix(self) -> list[Layer]:
        """Run the prefix, and return its keys and values."""
        tokens = self._plan.prefix
        if not tokens:
            return []
        alone = Slots(1, len(tokens))
        self._run_prompts(alone, 0, [tokens])
        return alone.layers_of(0)

    def _begin(self, asks: Sequence[Ask], numbers: list[int]) -> None:
        """Run all but the last token of prompts, in rows after those that are under way."""
        first, prefix = len(self._rows), self._plan.prefix
        held = {number: own(asks[number].prompt, prefix) for number in numbers}
        numbers.sort(key=lambda number: -len(held[number]))
        for row, number in enumerate(numbers, start=first):
            self._slots.share(row, shares(asks[number].prompt, prefix))
            self._remember(row, asks[number].prompt)
        self._run_prompts(self._slots, first, [held[number][:-1] for number in numbers])
        self._rows += [_Row(n, held[n][-1], len(held[n]) - 1) for n in numbers]

    def _run_prompts(self, slots: Slots, first: int, prompts: Sequence[Sequence[int]]) -> None:
        """Run prompts, longest first, in rows from one on, in blocks of as many columns as may be.

        What a shorter row is filled up with is overwritten before its own tokens come to see it.
        """
        device = self._model.device
        most = MAX_SCORES if device.type == "cpu" else MAX_DEVICE_SCORES
        heads = self._model.config.get_text_config().num_attention_heads
        start = 0
        while rows := [prompt for prompt in prompts if len(prompt) > start]:
            scores = len(rows) * heads * (slots.before + len(rows[0]))
            columns = max(1, min(BLOCK_TOKENS // len(rows), most // scores))
            stop = min(len(rows[0]), start + columns)
            tokens = padded([prompt[start:stop] for prompt in rows], stop - start, device)
            slots.run(self._model, tokens, slice(first, first + len(rows)), start, stop)
            start = stop

    def _step(self) -> None:
        """Run a token of every row, and choose the next."""
        rows, device = self._rows, self._model.device
        tokens = torch.tensor([[row.token] for row in rows], device=device)
        columns = torch.tensor([row.column for row in rows], device=device)
        length = max(row.column for row in rows) + 1
        logits = self._slots.run(self._model, tokens, slice(0, len(rows)), columns, length).float()
        if self._seen is not None:
            less = torch.where(logits < 0, logits * self._penalty, logits / self._penalty)
            logits = torch.where(self._seen[: len(rows)].to(logits.device), less, logits)
        for place, token in enumerate(logits.argmax(dim=-1).tolist()):
            rows[place].token = token
            rows[place].column += 1
            rows[place].answer.append(token)
            self._remember(place, [token])

    def _remove(self, place: int) -> None:
        """Free a row, and put the last one in its place."""
        last = self._rows.pop()
        free = len(self._rows)
        if place < free:
            self._slots.move(free, place, last.column)
            self._rows[place] = last
        if self._seen is not None:
            self._seen[place] = self._seen[free]
            self._seen[free] = False

    def _remember(self, row: int, tokens: Sequence[int]) -> None:
        """Note which tokens occurred in a row, if that matters."""
        if self._penalty == 1.0:
            return
        if self._seen is None:
            shape = (self._plan.rows, self._model.config.get_text_config().vocab_size)
            self._seen = torch.zeros(shape, dtype=torch.bool, device=self._model.device)
        self._seen[row, torch.tensor(tokens, device=self._seen.device)] = True
