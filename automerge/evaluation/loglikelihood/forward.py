"""Log-likelihoods from a live model with few tokens, and the output head only where it is read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from automerge.evaluation.loglikelihood.packing import (
    UNLIMITED,
    Group,
    Layout,
    Limits,
    Request,
    Row,
    batches,
)
from automerge.machine.allocation import is_out_of_memory

MIN_TOKENS = 2**10
"""Tokens that a batch may always hold: with fewer, calling a model costs more than running it."""

MAX_LOGITS = 2**26
"""Most logits in memory at once (a quarter of a gigabyte in float32)."""

CACHED_LOGITS = 2**20
"""Most logits at once on a CPU, whose cache holds about this many."""

NEAR = 1e-4
"""More than the rounding error of log-softmax in float32."""

MAX_MASK = 2**26
"""Most entries of a mask in memory at once."""

PROBES, PROBE_TOKENS = 4, 48
"""How many requests each way of running the model is tried on, and how much of each."""

PAIRS_PER_UNIT = 3
"""Pairs of tokens, per unit of the hidden size, that attend in the time a token takes elsewhere.

A token takes about 24 h² operations per layer and a pair 4 h; attention runs at half the speed.
"""

UNSUPPORTED = (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What models raise for a mask, positions or a cache that they were not written for."""


class LogLikelihood(NamedTuple):
    """lm-eval's answer: summed log-probability, and whether greedy decoding gives the targets."""

    logprob: float
    greedy: bool


MISSING = LogLikelihood(float("nan"), False)

Sets: TypeAlias = Sequence[Sequence[int]]
"""Requests, by number, that may share a prefix: those of the same task."""


@dataclass(frozen=True)
class Path:
    """How a model is run.

    `head` is the output embedding if hidden states may be gathered in front of it, else None.
    `layout.trees` says that the model honours four-dimensional masks and position ids;
    `layout.prefixes` says that it also continues from another call's keys and values.
    """

    head: nn.Module | None = None
    layout: Layout = field(default_factory=Layout)


Prefix: TypeAlias = Sequence[tuple[Tensor, Tensor]]
"""Keys and values of each layer, [1, heads, tokens, width]; empty if rows hold all tokens."""


@torch.no_grad()
def log_likelihoods(
    model: PreTrainedModel,
    path: Path,
    requests: Sequence[Request],
    batch_size: int,
    sets: Sets | None = None,
) -> tuple[list[LogLikelihood], int]:
    """Score every request; return the answers in their order, and the number of tokens run.

    A batch holds at most as many tokens as `batch_size` requests of the longest one's length (see
    `batch_tokens`). Without `sets`, all requests are of one task.
    """
    answers = [MISSING] * len(requests)
    if not requests:
        return answers, 0
    limits = Limits(
        tokens=batch_tokens(requests, batch_size),
        picked=max(1, MAX_LOGITS // model.config.get_text_config().vocab_size),
        masked=MAX_MASK,
    )
    groups = path.layout.groups(requests, [range(len(requests))] if sets is None else sets)
    for group in groups:
        prefix = _keys_and_values(model, path, group.prefix) if group.prefix else ()
        for branching, rows in _kinds(group, limits.tokens):
            for batch in batches(rows, len(group.prefix), limits):
                for number, answer in _score(model, path, requests, batch, branching, prefix):
                    answers[number] = answer
    return answers, sum(map(_tokens, groups))


def batch_tokens(requests: Sequence[Request], batch_size: int) -> int:
    """Return the most tokens per batch: `batch_size` times the longest request, or MIN_TOKENS."""
    return max(MIN_TOKENS, batch_size * max(len(request.inputs) for request in requests))


def _kinds(group: Group, batch_tokens: int) -> list[tuple[bool, list[Row]]]:
    """Separate rows without a mask from the others, unless they are too few for a batch."""
    if group.prefix:
        return [(True, list(group.rows))]
    trees = [row for row in group.rows if row.branches]
    chains = [row for row in group.rows if not row.branches]
    if trees and sum(len(row.tokens) for row in chains) < batch_tokens:
        return [(True, list(group.rows))]
    return [(False, chains), (True, trees)]


def find_path(model: PreTrainedModel, requests: Sequence[Request]) -> Path:
    """Find the cheapest path that agrees with the model's plain forward on probes of the requests.

    Trees must also keep their branches apart: changing some must not change the answers of others.

    Raises:
        torch.OutOfMemoryError: a probe does not fit, which says nothing of the path.
    """
    probes = _probes(requests, max_position(model))
    if not probes:
        return Path()
    plain, _ = log_likelihoods(model, Path(), probes, len(probes))
    path = Path()
    head = model.get_output_embeddings()
    if isinstance(head, nn.Module) and _agrees(model, Path(head), probes, plain):
        path = Path(head)
    trees = Layout(
        trees=True,
        max_position=max_position(model),
        pairs_per_token=PAIRS_PER_UNIT * model.config.get_text_config().hidden_size,
    )
    if _works(model, Path(path.head, replace(trees, pairs_per_token=UNLIMITED)), probes, plain):
        path = replace(path, layout=trees)
        prefixes = replace(trees, prefixes=True)
        alone = replace(prefixes, pairs_per_token=0, min_prefix=1, min_sharers=2)
        if _works(model, Path(path.head, alone), probes, plain):
            path = replace(path, layout=prefixes)
    return path


def _probes(requests: Sequence[Request], longest: int) -> list[Request]:
    """Make requests from others' tokens: one head for all, two tails of each, scored throughout."""
    longest = min(longest, PROBE_TOKENS)
    inputs = [request.inputs[:longest] for request in requests if len(request.inputs) > 3][:PROBES]
    if not inputs:
        return []
    head, tails = head_and_tails(inputs)
    return [Request(head + tail, tail) for tail in tails]


def head_and_tails(
    pieces: Sequence[tuple[int, ...]],
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Return the first piece's beginning, and all pieces' ends, each as it is and reversed."""
    half = min(map(len, pieces)) // 2
    tails = [tail for piece in pieces for tail in (piece[half:], piece[: half - 1 : -1])]
    return pieces[0][:half], tails


def _works(
    model: PreTrainedModel, path: Path, probes: Sequence[Request], plain: Sequence[LogLikelihood]
) -> bool:
    groups = path.layout.groups(probes, [range(len(probes))])
    tried = len(groups) > 1 or any(row.branches for row in groups[0].rows)
    return tried and _agrees(model, path, probes, plain) and _separates(model, path, probes)


def _agrees(
    model: PreTrainedModel,
    path: Path,
    requests: Sequence[Request],
    plain: Sequence[LogLikelihood],
) -> bool:
    try:
        answers, _ = log_likelihoods(model, path, requests, len(requests))
    except UNSUPPORTED as error:
        if is_out_of_memory(error):  # what another moment may have room for
            raise
        return False
    return all(
        is_rounding(answer.logprob - expected.logprob, abs(expected.logprob), model.dtype)
        for answer, expected in zip(answers, plain, strict=True)
    )


def is_rounding(difference: float, size: float, dtype: torch.dtype) -> bool:
    """Return whether numbers of a size that a model of a dtype gives may differ by so much."""
    tolerance = 1e-4 if dtype == torch.float32 else 0.25
    return abs(difference) <= tolerance * max(1.0, size / 10)


def _separates(model: PreTrainedModel, path: Path, probes: Sequence[Request]) -> bool:
    """Return whether every second request ignores the branches of the others."""
    disturbed = [
        Request((*probe.inputs[:-1], probe.inputs[0]), probe.targets) if number % 2 else probe
        for number, probe in enumerate(probes)
    ]
    before, _ = log_likelihoods(model, path, probes, len(probes))
    after, _ = log_likelihoods(model, path, disturbed, len(probes))
    tolerance = 1e-5 if model.dtype == torch.float32 else 0.05
    return all(
        abs(a.logprob - b.logprob) <= tolerance * len(probe.targets)
        for probe, a, b in zip(probes[::2], before[::2], after[::2], strict=True)
    )


def max_position(model: PreTrainedModel) -> int:
    """Return the number of positions up to which every layer sees all tokens before it."""
    config = model.config.get_text_config()
    if getattr(config, "use_sliding_window", True) is False:
        return UNLIMITED
    spans = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return min((span for span in spans if isinstance(span, int) and span > 0), default=UNLIMITED)


def longest_input(model: PreTrainedModel) -> int | None:
    """Return the most tokens that a model takes; None where its configuration does not say."""
    found: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return found


Span: TypeAlias = tuple[int, int, int]
"""A request, and the half-open range of its targets: the first, and one past the last."""


def _score(
    model: PreTrainedModel,
    path: Path,
    requests: Sequence[Request],
    batch: Sequence[Row],
    branching: bool,
    prefix: Prefix,
) -> Iterator[tuple[int, LogLikelihood]]:
    """Run one batch."""
    logits, places, targets, spans = _run(model, path, requests, batch, branching, prefix)
    read, wanted = (torch.tensor(row, device=logits.device) for row in (places, targets))
    values, greedy = (found.tolist() for found in read_targets(logits, read, wanted)[:2])
    for number, start, stop in spans:
        yield number, LogLikelihood(sum(values[start:stop]), all(greedy[start:stop]))


def run_rows(
    model: PreTrainedModel, path: Path, requests: Sequence[Request], rows: Sequence[Row]
) -> tuple[Tensor, list[int], list[int], list[Span]]:
    """Run rows that hold all their tokens, as one batch.

    Returns:
        Logits [places, vocabulary]; for all requests' targets, one after the other, the places that
        predict them, and their ids; where in these each request's targets are.
    """
    return _run(model, path, requests, rows, any(row.branches for row in rows), ())


def _run(
    model: PreTrainedModel,
    path: Path,
    requests: Sequence[Request],
    batch: Sequence[Row],
    branching: bool,
    prefix: Prefix,
) -> tuple[Tensor, list[int], list[int], list[Span]]:
    """Run one batch; every output position is read once, however many requests need it."""
    place: dict[tuple[int, int], int] = {}
    places: list[int] = []
    targets: list[int] = []
    spans: list[Span] = []
    for index, row in enumerate(batch):
        for pick in row.picks:
            start = len(places)
            places += [place.setdefault((index, c), len(place)) for c in pick.columns]
            targets += requests[pick.request].targets
            spans.append((pick.request, start, len(places)))
    at_rows, at_columns = torch.tensor(list(place), device=model.device).T
    logits = _logits(model, path, batch, branching, prefix, at_rows, at_columns)
    return logits, places, targets, spans


def cached_rows(logits: Tensor) -> int:
    """Return how many rows of logits are worked on at once: on a CPU, what its cache holds."""
    most = CACHED_LOGITS if logits.device.type == "cpu" else MAX_LOGITS
    return max(1, most // logits.shape[-1])


def read_targets(
    logits: Tensor, read: Tensor, wanted: Tensor, keep: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Read what logits [places, vocabulary] say of ids `wanted` at places `read`.

    The logits are overwritten, unless they are to be kept.

    Returns:
        Log-probabilities of the targets, rounded as lm-eval rounds them; whether each is the first
        of the largest; the logarithm of the sum of exponentials at each place.
    """
    values = torch.empty(len(read), device=logits.device)
    greedy = torch.empty(len(read), dtype=torch.bool, device=logits.device)
    sums = torch.empty(len(logits), device=logits.device)
    step = cached_rows(logits)
    for start in range(0, len(logits), step):
        chunk = logits[start : start + step].to(torch.float32, copy=keep)
        inside = ((read >= start) & (read < start + step)).nonzero().squeeze(1)
        at, targets_here = read[inside] - start, wanted[inside]
        largest = chunk.amax(dim=-1)
        found = chunk[at, targets_here] - largest[at]
        best = found >= -NEAR
        # Slow, and decides only where a target is nearly the largest. lm-eval takes the first of
        # the largest log-probabilities: rounded, they may be equal where the logits are not.
        rows = chunk[at[best]].log_softmax(dim=-1)
        best[best.clone()] = rows.argmax(dim=-1) == targets_here[best]
        # log-softmax in place: nobody reads the logits again, and writing them all takes longer.
        totals = chunk.sub_(largest.unsqueeze(1)).exp_().sum(dim=-1).log_()
        values[inside], greedy[inside] = found - totals[at], best
        sums[start : start + step] = totals + largest
    return values, greedy, sums


def _logits(
    model: PreTrainedModel,
    path: Path,
    rows: Sequence[Row],
    branching: bool,
    prefix: Prefix,
    at_rows: Tensor,
    at_columns: Tensor,
) -> Tensor:
    """Return logits at (row, column) pairs: [pairs, vocabulary]."""
    width = max(len(row.tokens) for row in rows)
    inputs: dict[str, Any] = {
        "input_ids": padded([row.tokens for row in rows], width, model.device)
    }
    if branching:
        ends = padded([row.ends for row in rows], width, model.device)
        before = prefix[0][0].shape[-2] if prefix else 0
        inputs["position_ids"] = padded([row.positions for row in rows], width, model.device)
        inputs["attention_mask"] = tree_mask(ends, before, model.dtype)
    if prefix:
        inputs["past_key_values"] = DynamicCache(
            [(k.expand(len(rows), -1, -1, -1), v.expand(len(rows), -1, -1, -1)) for k, v in prefix]
        )
    if path.head is None:
        logits: Tensor = model(**inputs, use_cache=False).logits
        return logits[at_rows, at_columns]
    with _in_front_of(path.head, at_rows, at_columns):
        return model(**inputs, use_cache=False).logits[0]  # type: ignore[no-any-return]


def _keys_and_values(model: PreTrainedModel, path: Path, tokens: Sequence[int]) -> Prefix:
    """Run tokens that many rows share, and return their keys and values."""
    cache = DynamicCache()
    inputs = torch.tensor([tokens], device=model.device)
    nowhere = torch.zeros(1, dtype=torch.long, device=model.device)
    with contextlib.ExitStack() as stack:
        if path.head is not None:
            stack.enter_context(_in_front_of(path.head, nowhere, nowhere))
        model(input_ids=inputs, past_key_values=cache, use_cache=True)
    return [(keys, values) for keys, values, *_ in cache]


def tree_mask(ends: Tensor, before: int, dtype: torch.dtype) -> Tensor:
    """Return the additive mask [rows, 1, width, before + width]: who sees the token at a column.

    Tokens before the row are seen by all; those in it from their own column up to its `ends`.
    """
    width = ends.shape[1]
    columns = torch.arange(width, device=ends.device)
    seen = (columns[None, None, :] <= columns[None, :, None]) & (
        columns[None, :, None] < ends[:, None, :]
    )
    mask = torch.zeros(len(ends), 1, width, before + width, dtype=dtype, device=ends.device)
    mask[..., before:].masked_fill_(~seen.unsqueeze(1), torch.finfo(dtype).min)
    return mask


def padded(sequences: Sequence[Sequence[int]], width: int, device: torch.device) -> Tensor:
    """Return sequences as rows of a width, filled up with zeros at their end."""
    return torch.tensor([(*s, *[0] * (width - len(s))) for s in sequences], device=device)


def _tokens(group: Group) -> int:
    return len(group.prefix) + sum(len(row.tokens) for row in group.rows)


@contextlib.contextmanager
def _in_front_of(head: nn.Module, at_rows: Tensor, at_columns: Tensor) -> Iterator[None]:
    """Pass only the hidden states at some positions to the head, as a batch of one row."""

    def gather(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0][at_rows, at_columns].unsqueeze(0), *args[1:])

    handle = head.register_forward_pre_hook(gather)
    try:
        yield
    finally:
        handle.remove()
