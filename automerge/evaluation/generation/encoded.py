"""Generation by models with an encoder: transformers' own `generate`, every answer as if alone.

lm-eval pads a batch's prompts on the left, which moves the positions of some encoders' tokens, and
lets all answers be as long as the longest prompt and `max_gen_toks` together. Here prompts are
padded on the right, and an answer's limit is that of its own prompt: texts are those of lm-eval
with batches of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import StoppingCriteriaList

from automerge.evaluation.generation.asks import Ask, Asks, Stops
from automerge.evaluation.generation.plan import rows_at_once, run_halving
from automerge.evaluation.generation.static import StaticGenerator

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

PROBES, PROBE_TOKENS = 4, 16
"""How many requests running them together is tried on, and the tokens of their answers."""


class EncodedGenerator:
    """Decodes greedily, prompts of similar length together; keeps nothing.

    Where memory runs out, batches are halved, from then on.

    Attributes:
        rows: how many requests are run together.
    """

    def __init__(self, lm: HFLM, cache_bytes: int | None = None) -> None:
        del cache_bytes  # a batch is as large as the configuration says, or as memory allows
        self._lm = lm
        self._static = StaticGenerator(lm)
        self._asks = Asks(lm)
        self.rows = rows_at_once(lm)

    @property
    def obstacle(self) -> str | None:
        """Why nothing can be generated in this way, if so."""
        return self._asks.obstacle

    def weights_changed(self) -> None:
        """Do nothing: calls do not share anything."""

    def generate(self, requests: Sequence[Instance]) -> list[str]:
        """Return one text per request; those that are not simply greedy are lm-eval's own."""
        asks = self._asks.all(requests)
        answers = self._answers([ask for ask in asks if ask is not None], self.rows)
        return self._static.completed(requests, self._asks.texts(asks, answers))

    def differs(self, requests: Sequence[Instance]) -> bool | None:
        """Return whether answers depend on what they are run with; None if no request tells."""
        asks = [ask for ask in self._asks.all(requests) if ask is not None]
        ordered = sorted(dict.fromkeys(asks), key=lambda ask: len(ask.prompt))
        probes = [replace(ask, limit=min(ask.limit, PROBE_TOKENS)) for ask in ordered]
        probes = [*probes[: PROBES // 2], *probes[PROBES // 2 :][-PROBES // 2 :]]
        if not probes:
            return None
        return self._answers(probes, len(probes)) != self._answers(probes, 1)

    def _answers(self, asks: Sequence[Ask], rows: int) -> dict[Ask, list[int]]:
        """Return the answers' tokens, from the decoder's first, which is the model's own."""
        waiting = sorted(dict.fromkeys(asks), key=lambda ask: -len(ask.prompt))
        found: dict[Ask, list[int]] = {}

        def answer_others(rows: int) -> None:
            left = [ask for ask in waiting if ask not in found]
            for start in range(0, len(left), rows):
                batch = left[start : start + rows]
                found.update(zip(batch, self._run(batch), strict=True))

        _, fitted = run_halving(min(rows, max(len(waiting), 1)), answer_others)
        if fitted < min(rows, len(waiting)):
            self.rows = fitted
        return found

    def _run(self, asks: Sequence[Ask]) -> list[list[int]]:
        """Run requests as one batch."""
        model, pad = self._lm.model, self._lm.tokenizer.pad_token_id
        width = max(len(ask.prompt) for ask in asks)
        ids = [(*ask.prompt, *[pad] * (width - len(ask.prompt))) for ask in asks]
        seen = [(1,) * len(ask.prompt) + (0,) * (width - len(ask.prompt)) for ask in asks]
        # A model may force its last token to be one that ends the answer; nobody reads it.
        last = model.generation_config.forced_eos_token_id is not None
        ends = _Ends([(ask.limit - last, self._asks.stops(ask)) for ask in asks])
        options: dict[str, Any] = {"stopping_criteria": StoppingCriteriaList([ends])}
        made = model.generate(
            input_ids=torch.tensor(ids, device=model.device),
            attention_mask=torch.tensor(seen, device=model.device),
            max_length=2 + max(ask.limit for ask in asks),  # after a first token; never reached
            do_sample=False,
            pad_token_id=pad,
            use_cache=True,
            **options,
        ).tolist()
        return [row[: 1 + size] for row, size in zip(made, ends.sizes(len(made[0])), strict=True)]


class _Ends:
    """Ends each answer of a batch at its own limit, and where its text contains a stop.

    It is called as transformers' `StoppingCriteria` are.
    """

    def __init__(self, limits: Sequence[tuple[int, Stops]]) -> None:
        self._limits = tuple(limits)
        self._ended: list[int | None] = [None] * len(limits)

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Tensor:
        del scores
        for number, (row, (limit, stops)) in enumerate(
            zip(input_ids[:, 1:].tolist(), self._limits, strict=True)
        ):
            if self._ended[number] is None and (len(row) >= limit or stops.end(row)):
                self._ended[number] = len(row)
        ended = [size is not None for size in self._ended]
        return torch.tensor(ended, device=input_ids.device)

    def sizes(self, width: int) -> list[int]:
        """Return how many tokens each answer has: up to where it was ended, or all of a width."""
        return [width if size is None else size for size in self._ended]
