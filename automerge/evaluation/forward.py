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
    Request,
    Row,
    batches,
    linear_rows,
    packed_rows,
)

MAX_LOGITS = 2**26
"""Most logits held at once (a quarter of a gigabyte in float32)."""

UNLIMITED = 2**62

UNSUPPORTED = (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What models raise on a mask or positions they were not written for."""


class LogLikelihood(NamedTuple):
    """lm-eval's answer: summed log-probability, and whether greedy decoding gives the targets."""

    logprob: float
    greedy: bool


@dataclass(frozen=True)
class Path:
    """How a model is run: through trees or not, and with the head on few positions or on all.

    `head` is the output embedding when hidden states may be gathered in front of it. `trees` says
    that the model honours four-dimensional masks and position ids, below `max_position`.
    """

    head: nn.Module | None = None
    trees: bool = False
    max_position: int = UNLIMITED


@torch.no_grad()
def log_likelihoods(
    model: PreTrainedModel,
    path: Path,
    requests: Sequence[Request],
    groups: Sequence[Sequence[int]],
    batch_size: int,
) -> tuple[list[LogLikelihood], int]:
    """Score every request; `groups` are the numbers of requests worth packing together.

    Returns the answers in the order of the requests, and the tokens that were run.
    """
    if path.trees:
        rows = [row for group in groups for row in packed_rows(requests, group, path.max_position)]
    else:
        rows = [row for group in groups for row in linear_rows(requests, group)]
    answers: list[LogLikelihood | None] = [None] * len(requests)
    vocabulary = model.config.get_text_config().vocab_size
    max_picked = max(1, MAX_LOGITS // vocabulary)
    for branching in (False, True):
        alike = [row for row in rows if row.branches is branching]
        for batch in batches(alike, batch_size, max_picked):
            for number, answer in _score(model, path, requests, batch, branching):
                answers[number] = answer
    tokens = sum(len(row.tokens) for row in rows)
    return [answer for answer in answers if answer is not None], tokens


def find_path(
    model: PreTrainedModel, requests: Sequence[Request], groups: Sequence[Sequence[int]]
) -> Path:
    """The cheapest path that gives, on these requests, what the model's plain forward gives.

    A tree must also keep its branches apart: changing one leaves the answers of the others as they
    were. The requests should hold groups that a tree would help.
    """
    batch_size = len(requests)
    plain, _ = log_likelihoods(model, Path(), requests, groups, batch_size)
    path = Path()
    head = model.get_output_embeddings()
    if isinstance(head, nn.Module):
        gathered = Path(head=head)
        if _agrees(model, gathered, requests, groups, plain):
            path = gathered
    trees = Path(path.head, trees=True, max_position=_window(model))
    if _agrees(model, trees, requests, groups, plain) and _separates(
        model, trees, requests, groups
    ):
        path = trees
    return path


def _agrees(
    model: PreTrainedModel,
    path: Path,
    requests: Sequence[Request],
    groups: Sequence[Sequence[int]],
    plain: Sequence[LogLikelihood],
) -> bool:
    try:
        answers, _ = log_likelihoods(model, path, requests, groups, len(requests))
    except UNSUPPORTED:
        return False
    tolerance = 1e-4 if model.dtype == torch.float32 else 0.25
    return all(
        abs(answer.logprob - expected.logprob) <= tolerance * max(1.0, abs(expected.logprob) / 10)
        for answer, expected in zip(answers, plain, strict=True)
    )


def _separates(
    model: PreTrainedModel,
    path: Path,
    requests: Sequence[Request],
    groups: Sequence[Sequence[int]],
) -> bool:
    """Whether the last request of each tree ignores what stands in the other branches."""
    disturbed = list(requests)
    for group in groups:
        for number in group[:-1]:
            inputs, targets = requests[number].inputs, requests[number].targets
            if len(targets) > 1:
                disturbed[number] = Request((*inputs[:-1], inputs[0]), targets)
    before, _ = log_likelihoods(model, path, requests, groups, len(requests))
    after, _ = log_likelihoods(model, path, disturbed, groups, len(requests))
    last = [group[-1] for group in groups]
    tolerance = 1e-5 if model.dtype == torch.float32 else 0.05
    return all(abs(before[n].logprob - after[n].logprob) <= tolerance for n in last)


def _window(model: PreTrainedModel) -> int:
    """The positions up to which every layer sees all tokens before it."""
    config = model.config.get_text_config()
    if getattr(config, "use_sliding_window", True) is False:
        return UNLIMITED
    spans = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return min((span for span in spans if isinstance(span, int) and span > 0), default=UNLIMITED)


def _score(
    model: PreTrainedModel,
    path: Path,
    requests: Sequence[Request],
    batch: Sequence[Row],
    branching: bool,
) -> Iterator[tuple[int, LogLikelihood]]:
    """Run one batch; every output position is read once, however many requests want it."""
    place: dict[tuple[int, int], int] = {}
    places: list[int] = []
    targets: list[int] = []
    spans: list[tuple[int, int, int]] = []
    for index, row in enumerate(batch):
        for pick in row.picks:
            start = len(places)
            places += [place.setdefault((index, c), len(place)) for c in pick.columns]
            targets += requests[pick.request].targets
            spans.append((pick.request, start, len(places)))
    device = model.device
    at_rows, at_columns = torch.tensor(list(place), device=device).T
    logits = _logits(model, path, batch, branching, at_rows, at_columns)
    logprobs = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
    wanted = torch.tensor(targets, device=device)
    rows = torch.tensor(places, device=device)
    values = logprobs[rows, wanted].tolist()
    greedy = (logprobs.argmax(dim=-1)[rows] == wanted).tolist()
    for number, start, stop in spans:
        yield number, LogLikelihood(sum(values[start:stop]), all(greedy[start:stop]))


def _logits(
    model: PreTrainedModel,
    path: Path,
    batch: Sequence[Row],
    branching: bool,
    at_rows: Tensor,
    at_columns: Tensor,
) -> Tensor:
    """Logits at (row, column) pairs: [pairs, vocabulary]."""
    width = max(len(row.tokens) for row in batch)
    inputs = {"input_ids": _padded([row.tokens for row in batch], width, 0, model.device)}
    if branching:
        segments = _padded([row.segments for row in batch], width, -1, model.device)
        inputs["position_ids"] = _padded([r.positions for r in batch], width, 0, model.device)
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
