"""Generation with rows that are filled again at once, shared beginnings run once, and no padding.

For any model that attends through transformers' attention interface; its weights stay in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from automerge.evaluation.generation.asks import Ask, Asks
from automerge.evaluation.generation.decoding import Decoder
from automerge.evaluation.generation.plan import Plan, plans, rows_at_once, run_halving
from automerge.evaluation.generation.slots import Slots, attending
from automerge.evaluation.generation.static import StaticGenerator

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM


class ContinuousGenerator:
    """Decodes greedily, with a row for every answer under way; keeps no keys and values afterwards.

    There are as many rows as the batch size says and as fit into `cache_bytes`; a request that
    needs more runs alone. Where memory runs out, half as many are tried, from then on. The longest
    answers come first, by how long they were the last time.

    Attributes:
        rows: how many answers may be under way.
        lengths: how many tokens each answer had the last time.
    """

    def __init__(self, lm: HFLM, cache_bytes: int | None = None) -> None:
        self._lm, self._cache_bytes = lm, cache_bytes
        self._static = StaticGenerator(lm)
        self._asks = Asks(lm)
        self.lengths: dict[Ask, int] = {}
        self.rows = rows_at_once(lm)

    @property
    def chosen(self) -> str:
        """Say whether lm-eval's own way is taken after all, and why."""
        why = self.obstacle
        return "continuous" if why is None else f"static: {why}"

    @property
    def obstacle(self) -> str | None:
        """Why nothing can be generated in this way, if so."""
        return self._asks.obstacle if self._lm.backend == "causal" else "the model has an encoder"

    def weights_changed(self) -> None:
        """Do nothing: no keys and values outlive a call."""

    def generate(self, requests: Sequence[Instance]) -> list[str]:
        """Return one text per request; those that are not simply greedy are lm-eval's own."""
        asks = self.asks(requests)
        answers = self.answers([ask for ask in asks if ask is not None])
        self.lengths |= {ask: len(answer) for ask, answer in answers.items()}
        return self._static.completed(requests, self._asks.texts(asks, answers))

    def asks(self, requests: Sequence[Instance]) -> list[Ask | None]:
        """Return each request's tokens; None where it is left to lm-eval."""
        return [None] * len(requests) if self.obstacle else self._asks.all(requests)

    @torch.no_grad()
    def answers(self, asks: Sequence[Ask], most_rows: int | None = None) -> dict[Ask, list[int]]:
        """Return the answers' tokens, including the one that ends them.

        Args:
            asks: what is asked.
            most_rows: how many may be under way at once, if not as many as usual.

        Raises:
            Unsupported: the model attends in another way.
            torch.OutOfMemoryError: one of them does not fit, even alone.
        """
        waiting = sorted(
            dict.fromkeys(asks),
            key=lambda ask: (-self.lengths.get(ask, ask.limit), -len(ask.prompt)),
        )
        found: dict[Ask, list[int]] = {}
        if waiting:
            with attending(self._lm.model):
                rows = most_rows or self.rows
                for plan, numbers in plans(waiting, rows, self._most_tokens):
                    self._answer(plan, [waiting[number] for number in numbers], found)
        return found

    def _answer(self, plan: Plan, asks: Sequence[Ask], found: dict[Ask, list[int]]) -> None:
        """Find answers with the rows planned, or with half as many while memory runs out."""

        def answer_others(rows: int) -> None:
            left = [ask for ask in asks if ask not in found]
            self._decode(replace(plan, rows=rows), left, found)

        _, fitted = run_halving(plan.rows, answer_others)
        if fitted < plan.rows:
            self.rows = fitted

    def _decode(self, plan: Plan, asks: Sequence[Ask], found: dict[Ask, list[int]]) -> None:
        decoder = Decoder(self._lm.model, plan, self._asks.ends, self._asks.penalty)
        stops = [self._asks.stops(ask) for ask in asks]
        for number, answer in decoder.run(asks, stops):
            found[asks[number]] = answer

    @cached_property
    def _most_tokens(self) -> int | None:
        """How many tokens' keys and values fit into their share of memory."""
        if self._cache_bytes is None:
            return None
        one = Slots(1, 1)
        tokens = torch.zeros((1, 1), dtype=torch.long, device=self._lm.model.device)
        one.run(self._lm.model, tokens, slice(0, 1), 0, 1)
        return self._cache_bytes // one.nbytes
