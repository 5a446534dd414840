"""Log-likelihoods from a live model: few tokens, and the output head only where it is read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from automerge.evaluation.packing import (
    SHARED,
    UNLIMITED,
    Document,
    Placed,
    Request,
    Row,
    batches,
)

MAX_LOGITS = 2**26
"""Most logits held at once (a quarter of a gigabyte in float32)."""

UNSUPPORTED = (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What models raise on a mask or positions they were not written for."""


class LogLikelihood(NamedTuple):
    """lm-eval's answer: summed log-probability, and whether greedy decoding gives the targets."""

    logprob: float
    greedy: bool


MISSING = LogLikelihood(float("nan"), False)


@dataclass(frozen=True)
class Path:
    """How a model is run: through trees or not, and with the head on few positions or on all.

    `head` is the output embedding when hidden states may be gathered in front of it. `trees` says
    that the model honours four-dimensional masks and position ids.
    """

    head: nn.Module | None = None
    trees: bool = False


@torch.no_grad()
def log_likelihoods(
    model: PreTrainedModel, path: Path, documents: Sequence[Document], batch_size: int
) -> tuple[list[list[LogLikelihood]], int]:
    """Score every request of every document, in their order; also the number of tokens run."""
    rows = [
        (number, row)
        for number, document in enumerate(documents)
        for row in (document.packed if path.trees else document.linear)
    ]
    answers = [[MISSING] * len(document.requests) for document in documents]
    max_picked = max(1, MAX_LOGITS // model.config.get_text_config().vocab_size)
    for branching in (False, True):
        alike = [placed for placed in rows if placed[1].branches is branching]
        for batch in batches(alike, batch_size, max_picked):
            for number, request, answer in _score(model, path, documents, batch, branching):
                answers[number][request] = answer
    return answers, sum(len(row.tokens) for _, row in rows)


def find_path(model: PreTrainedModel, documents: Sequence[Document]) -> Path:
    """The cheapest path that gives, on these documents, what the model's plain forward gives.

    Trees must also keep their branches apart: changing one leaves the answers of the others as they
    were. The documents should be some that a tree would help.
    """
    plain, _ = log_likelihoods(model, Path(), documents, len(documents))
    path = Path()
    head = model.get_output_embeddings()
    if isinstance(head, nn.Module) and _agrees(model, Path(head), documents, plain):
        path = Path(head)
    trees = Path(path.head, trees=True)
    if _agrees(model, trees, documents, plain) and _separates(model, trees, documents):
        path = trees
    return path


def _agrees(
    model: PreTrainedModel,
    path: Path,
    documents: Sequence[Document],
    plain: Sequence[Sequence[LogLikelihood]],
) -> bool:
    try:
        answers, _ = log_likelihoods(model, path, documents, len(documents))
    except UNSUPPORTED:
        return False
    tolerance = 1e-4 if model.dtype == torch.float32 else 0.25
    return all(
        abs(answer.logprob - expected.logprob) <= tolerance * max(1.0, abs(expected.logprob) / 10)
        for found, wanted in zip(answers, plain, strict=True)
        for answer, expected in zip(found, wanted, strict=True)
    )


def _separates(model: PreTrainedModel, path: Path, documents: Sequence[Document]) -> bool:
    """Whether the last request of each tree ignores what stands in the other branches."""
    disturbed = []
    for document in documents:
        *others, last = document.requests
        changed = [
            Request((*r.inputs[:-1], r.inputs[0]), r.targets) if len(r.targets) > 1 else r
            for r in others
        ]
        disturbed.append(Document.of([*changed, last]))
    before, _ = log_likelihoods(model, path, documents, len(documents))
    after, _ = log_likelihoods(model, path, disturbed, len(documents))
    tolerance = 1e-5 if model.dtype == torch.float32 else 0.05
    return all(
        abs(a[-1].logprob - b[-1].logprob) <= tolerance for a, b in zip(before, after, strict=True)
    )


def max_position(model: PreTrainedModel) -> int:
    """The positions up to which every layer sees all tokens before it."""
    config = model.config.get_text_config()
    if getattr(config, "use_sliding_window", True) is False:
        return UNLIMITED
    spans = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return min((span for span in spans if isinstance(span, int) and span > 0), default=UNLIMITED)


def _score(
    model: PreTrainedModel,
    path: Path,
    documents: Sequence[Document],
    batch: Sequence[Placed],
    branching: bool,
) -> Iterator[tuple[int, int, LogLikelihood]]:
    """Run one batch; every output position is read once, however many requests want it."""
    place: dict[tuple[int, int], int] = {}
    places: list[int] = []
    targets: list[int] = []
    spans: list[tuple[int, int, int, int]] = []
    for index, (number, row) in enumerate(batch):
        for pick in row.picks:
            start = len(places)
            places += [place.setdefault((index, c), len(place)) for c in pick.columns]
            targets += documents[number].requests[pick.request].targets
            spans.append((number, pick.request, start, len(places)))
    device = model.device
    at_rows, at_columns = torch.tensor(list(place), device=device).T
    rows = [row for _, row in batch]
    logits = _logits(model, path, rows, branching, at_rows, at_columns)
    logprobs = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
    wanted = torch.tensor(targets, device=device)
    read = torch.tensor(places, device=device)
    values = logprobs[read, wanted].tolist()
    greedy = (logprobs.argmax(dim=-1)[read] == wanted).tolist()
    for number, request, start, stop in spans:
        answer = LogLikelihood(sum(values[start:stop]), all(greedy[start:stop]))
        yield number, request, answer


def _logits(
    model: PreTrainedModel,
    path: Path,
    rows: Sequence[Row],
    branching: bool,
    at_rows: Tensor,
    at_columns: Tensor,
) -> Tensor:
    """Logits at (row, column) pairs: [pairs, vocabulary]."""
    width = max(len(row.tokens) for row in rows)
    inputs = {"input_ids": _padded([row.tokens for row in rows], width, 0, model.device)}
    if branching:
        segments = _padded([row.segments for row in rows], width, -1, model.device)
        inputs["position_ids"] = _padded([row.positions for row in rows], width, 0, model.device)
        inputs["attention_mask"] = tree_mask(segments, model.dtype)
    if path.head is None:
        logits: Tensor = model(**inputs, use_cache=False).logits
        return logits[at_rows, at_columns]
    with _in_front_of(path.head, at_rows, at_columns):
        return model(**inputs, use_cache=False).logits[0]  # type: ignore[no-any-return]


def tree_mask(segments: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask [rows, 1, width, width]: a token sees shared tokens and its own branch."""
    width = segments.shape[1]
    own = segments[:, None, :] == segments[:, :, None]
    seen = ((segments == SHARED)[:, None, :] | own) & torch.ones(
        width, width, dtype=torch.bool, device=segments.device
    ).tril()
    mask = torch.zeros(seen.shape, dtype=dtype, device=segments.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min).unsqueeze(1)


def _padded(
    sequences: Sequence[Sequence[int]], width: int, fill: int, device: torch.device
) -> Tensor:
    return torch.tensor([(*s, *[fill] * (width - len(s))) for s in sequences], device=device)


@contextlib.contextmanager
def _in_front_of(head: nn.Module, at_rows: Tensor, at_columns: Tensor) -> Iterator[None]:
    """Hand the head the hidden states at some positions only, as a batch of one row."""

    def gather(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0][at_rows, at_columns].unsqueeze(0), *args[1:])

    handle = head.register_forward_pre_hook(gather)
    try:
        yield
    finally:
        handle.remove()
