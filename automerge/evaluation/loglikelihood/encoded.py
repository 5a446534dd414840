"""Log-likelihoods from a live model with an encoder: it reads contexts, the decoder continuations.

lm-eval runs the encoder once per request. Here it runs once per context, whose continuations share
what it found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from automerge.evaluation.loglikelihood.forward import (
    MAX_LOGITS,
    MISSING,
    UNSUPPORTED,
    LogLikelihood,
    is_rounding,
    padded,
    read_targets,
)
from automerge.evaluation.loglikelihood.packing import Request
from automerge.machine.allocation import is_out_of_memory

T = TypeVar("T")

PROBES = 4
"""How many contexts running the encoder apart is tried on."""
IGNORED = -100
"""The label of padding, in all of transformers' models."""


class EncodedLogLikelihoods:
    """Scores requests whose `inputs` the encoder reads and whose `targets` the decoder is given.

    On the first contexts, running the encoder apart is compared with the model's plain forward; if
    they differ, or the model does not take what an encoder found, every request is run whole.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._apart: bool | None = None

    @torch.no_grad()
    def run(self, requests: Sequence[Request], batch_size: int) -> tuple[list[LogLikelihood], int]:
        """Return the answers in the order of the requests, and the number of tokens run.

        Args:
            requests: what is asked, without an order.
            batch_size: the most contexts, and the most continuations, that run together.
        """
        by_context: dict[tuple[int, ...], list[int]] = {}
        for number, request in enumerate(requests):
            by_context.setdefault(request.inputs, []).append(number)
        contexts = sorted(by_context, key=lambda tokens: (-len(tokens), tokens))
        if self._apart is None and contexts:
            probes = contexts[-min(PROBES, batch_size) :]
            numbers = chain.from_iterable(by_context[context] for context in probes)
            self._apart = self._agrees([requests[number] for number in numbers], batch_size)
        answers = [MISSING] * len(requests)
        for together in _cut(contexts, batch_size):
            asked = list(chain.from_iterable(by_context[context] for context in together))
            own = [requests[number] for number in asked]
            found = self._score(own, batch_size, bool(self._apart))
            for number, answer in zip(asked, found, strict=True):
                answers[number] = answer
        read = contexts if self._apart else [request.inputs for request in requests]
        return answers, sum(map(len, read)) + sum(len(r.targets) for r in requests)

    def _agrees(self, probes: Sequence[Request], batch_size: int) -> bool:
        plain = self._score(probes, batch_size, apart=False)
        try:
            apart = list(self._score(probes, batch_size, apart=True))
        except UNSUPPORTED as error:
            if is_out_of_memory(error):  # what another moment may have room for
                raise
            return False
        return all(
            is_rounding(one.logprob - other.logprob, abs(other.logprob), self._model.dtype)
            for one, other in zip(apart, plain, strict=True)
        )

    def _score(
        self, requests: Sequence[Request], batch_size: int, apart: bool
    ) -> Iterator[LogLikelihood]:
        """Yield the answers to requests; with `apart`, their contexts are encoded as one batch."""
        contexts = list(dict.fromkeys(request.inputs for request in requests))
        hidden, mask = self._encoded(contexts) if apart else (None, None)
        row = {context: number for number, context in enumerate(contexts)}
        longest = max(len(request.targets) for request in requests)
        most = max(1, MAX_LOGITS // (longest * self._vocabulary))
        for batch in _cut(requests, min(batch_size, most)):
            if hidden is None or mask is None:
                yield from self._decoded(batch, self._inputs([r.inputs for r in batch]))
            else:
                rows = torch.tensor([row[request.inputs] for request in batch]).to(mask.device)
                own = BaseModelOutput(last_hidden_state=hidden[rows])
                yield from self._decoded(
                    batch, {"encoder_outputs": own, "attention_mask": mask[rows]}
                )

    @property
    def _vocabulary(self) -> int:
        head = self._model.get_output_embeddings()
        return 1 if head is None else int(head.weight.shape[0])

    def _inputs(self, contexts: Sequence[tuple[int, ...]]) -> dict[str, Tensor]:
        """Return contexts, padded on the right, and the mask that hides the padding."""
        width = max(map(len, contexts))
        ones = [(1,) * len(context) for context in contexts]
        device = self._model.device
        return {
            "input_ids": padded(contexts, width, device),
            "attention_mask": padded(ones, width, device),
        }

    def _encoded(self, contexts: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        """Return what the encoder makes of contexts, and the mask of their padding."""
        inputs = self._inputs(contexts)
        hidden: Tensor = self._model.get_encoder()(**inputs).last_hidden_state
        return hidden, inputs["attention_mask"]

    def _decoded(
        self, batch: Sequence[Request], context: dict[str, Any]
    ) -> Iterator[LogLikelihood]:
        """Yield what the decoder says of each request's targets, from the model's own first token.

        Labels, which the model moves by one place itself, are padded with what it ignores: some
        begin with the last label that is none.
        """
        width = max(len(request.targets) for request in batch)
        filled = [(*r.targets, *[IGNORED] * (width - len(r.targets))) for r in batch]
        labels = torch.tensor(filled, device=self._model.device)
        logits = self._model(**context, labels=labels, use_cache=False).logits
        wanted = labels[labels != IGNORED]
        places = torch.arange(len(wanted), device=wanted.device)
        values, greedy, _ = read_targets(logits[labels != IGNORED], places, wanted)
        start = 0
        for request in batch:
            stop = start + len(request.targets)
            said = values[start:stop].tolist()
            yield LogLikelihood(sum(said), all(greedy[start:stop].tolist()))
            start = stop


def _cut(sequence: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield a sequence in pieces of a size; the last may be shorter."""
    for start in range(0, len(sequence), size):
        yield sequence[start : start + size]
