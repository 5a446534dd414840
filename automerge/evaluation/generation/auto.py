"""Fast generation wherever its answers are lm-eval's, else lm-eval's own generation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

import torch

from automerge.evaluation.generation.asks import Ask
from automerge.evaluation.generation.base import Generator
from automerge.evaluation.generation.continuous import ContinuousGenerator
from automerge.evaluation.generation.encoded import EncodedGenerator
from automerge.evaluation.generation.probes import probes
from automerge.evaluation.generation.static import StaticGenerator
from automerge.evaluation.loglikelihood.forward import (
    UNSUPPORTED,
    is_rounding,
    max_position,
)
from automerge.machine.allocation import is_out_of_memory
from automerge.text.error import cause

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

PROBE_ROWS = 3
"""Fewer than probes, so that rows are filled again."""


class AutoGenerator:
    """Compares `ContinuousGenerator` with transformers' `generate` on the first greedy requests.

    They must give the same tokens, except where two are as likely but for rounding. Models with an
    encoder are run by `EncodedGenerator`, if it answers requests together as it does one by one.
    """

    def __init__(self, lm: HFLM, cache_bytes: int | None = None) -> None:
        self._lm = lm
        self._continuous = ContinuousGenerator(lm, cache_bytes)
        self._encoded = EncodedGenerator(lm, cache_bytes)
        self._static = StaticGenerator(lm, cache_bytes)
        self._found: tuple[Generator, str] | None = None

    @property
    def chosen(self) -> str:
        """How texts are generated, and why if not continuously."""
        return "static: no request to compare on" if self._found is None else self._found[1]

    def weights_changed(self) -> None:
        """Pass it on."""
        self._continuous.weights_changed()
        self._static.weights_changed()

    def generate(self, requests: Sequence[Instance]) -> list[str]:
        """Return one text per request."""
        if self._found is None and requests:
            self._found = self._choose(requests)
        generator = self._static if self._found is None else self._found[0]
        return generator.generate(requests)

    def _choose(self, requests: Sequence[Instance]) -> tuple[Generator, str] | None:
        """Choose for good; None where the requests do not tell."""
        if self._lm.backend == "seq2seq":
            return self._choose_encoded(requests)
        why = self._continuous.obstacle
        if why is None:
            asks = [ask for ask in self._continuous.asks(requests) if ask is not None]
            tried = probes(asks, self._lm.max_length, max_position(self._lm.model))
            if not tried:
                return None
            why = self._difference(tried)
        if why is None:
            return self._continuous, "continuous"
        return self._static, f"static: {why}"

    def _choose_encoded(self, requests: Sequence[Instance]) -> tuple[Generator, str] | None:
        why = self._encoded.obstacle
        if why is None:
            differs = self._encoded.differs(requests)
            if not differs:
                return None if differs is None else (self._encoded, "batched")
            why = "answers depend on what they are batched with"
        return self._static, f"static: {why}"

    @torch.no_grad()
    def _difference(self, tried: Sequence[Ask]) -> str | None:
        """Say why continuous answers are not lm-eval's; None where they are."""
        try:
            answers = self._continuous.answers(tried, PROBE_ROWS)
        except UNSUPPORTED as error:
            if is_out_of_memory(error):
                raise
            return f"this model cannot run continuously ({cause(error)[:200]})"
        differing = sum(not self._is_answer(ask, answers[ask]) for ask in tried)
        if not differing:
            return None
        return f"continuous answers differ from lm-eval's on {differing} of {len(tried)} probes"

    def _is_answer(self, ask: Ask, answer: Sequence[int]) -> bool:
        model = self._lm.model
        prompt = torch.tensor([ask.prompt], device=model.device)
        expected: list[int] = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_length=len(ask.prompt) + ask.limit,
            do_sample=False,
            pad_token_id=self._lm.tokenizer.pad_token_id,
            use_cache=True,
        )[0, len(ask.prompt) :].tolist()
        if list(answer) == expected:
            return True
        pairs = enumerate(zip_longest(answer, expected))
        place, (ours, theirs) = next((n, pair) for n, pair in pairs if pair[0] != pair[1])
        if ours is None or theirs is None:
            return False
        same = torch.tensor([(*ask.prompt, *expected[:place])], device=model.device)
        logits = model(input_ids=same, use_cache=False).logits[0, -1].float()
        between = float(logits[ours] - logits[theirs])
        return is_rounding(between, float(logits.abs().max()), model.dtype)
