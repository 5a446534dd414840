"""Log-likelihoods with what it takes to run a loss of them backwards.

A loss is a function of the log-likelihoods of an item's requests. Its derivatives with respect to
them are numbers, so a batch is run once forwards, the loss of each of its items is differentiated
on the spot, and Σ derivative · log-likelihood is run backwards: it has the gradient of the loss.
Where what a batch keeps for that does not fit into memory, it is cut; where one item alone does not
fit, layers are run again instead.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers import PreTrainedModel

from automerge.evaluation.base import Backward, NoRoom
from automerge.evaluation.loglikelihood.forward import (
    MAX_LOGITS,
    MISSING,
    LogLikelihood,
    Path,
    batch_tokens,
    cached_rows,
    read_targets,
    run_rows,
)
from automerge.evaluation.loglikelihood.graph import Graph, lean_layers
from automerge.evaluation.loglikelihood.packing import (
    UNLIMITED,
    Layout,
    Request,
    Row,
    unique_tokens,
)

Derivatives: TypeAlias = Callable[[int, Sequence[float]], Mapping[str, Sequence[float]]]
"""From the number of a unit and the log-likelihoods of its requests, in nats: per loss, by name,
its derivative with respect to each of them."""

COPIES = 4
"""Copies of a batch's logits at once: they, their gradient, and what a model bends them from."""


def run_backwards(
    model: PreTrainedModel,
    path: Path,
    units: Sequence[Sequence[Request]],
    kinds: Sequence[Hashable],
    derivatives: Derivatives,
    backward: Backward,
    batch_size: int,
    graph: Graph | None = None,
) -> tuple[list[list[LogLikelihood]], int]:
    """Score requests and run losses of them backwards, a batch at a time.

    Gradients of weights, and what they are contracted with, cost the same for few tokens as for
    many, so batches are as large as `batch_size` and memory allow.

    Args:
        model: Some of its parameters want gradients.
        path: How the model is run; prefixes are not shared between batches.
        units: Requests by what must be in one batch, for its losses depend on all of it.
        kinds: Of each unit, equal where it has the same losses as another: every loss of a batch is
            a pass backwards of its own.
        derivatives: Of the losses of a unit.
        backward: Called for each batch and each loss that it has a part in.
        batch_size: As for `log_likelihoods`.
        graph: Knows what a batch may keep for its pass backwards; None is no limit, other than
            `MAX_LOGITS`.

    Returns:
        The answers of each unit's requests, and the number of tokens run.

    Raises:
        NoRoom: One unit keeps more.
    """
    answers = [[MISSING] * len(unit) for unit in units]
    if not any(units):
        return answers, 0
    layout = replace(path.layout, prefixes=False)
    vocabulary = model.config.get_text_config().vocab_size
    tokens = 0
    limit = batch_tokens([request for unit in units for request in unit], batch_size)
    picked = max(1, MAX_LOGITS // COPIES // vocabulary) if graph is None else UNLIMITED
    for numbers in _batches(units, kinds, limit, picked):
        for batch in _cut(_laid_out(units, numbers, layout), units, layout, graph):
            tokens += sum(len(row.tokens) for row in batch.rows)
            with lean_layers(model) if batch.lean else contextlib.nullcontext():
                _run(model, path, units, batch, derivatives, backward, answers)
    return answers, tokens


@dataclass(frozen=True)
class _Batch:
    """Units by number, with the rows that they are run as; `lean` says that layers run again."""

    numbers: Sequence[int]
    rows: Sequence[Row]
    lean: bool = False


def _laid_out(units: Sequence[Sequence[Request]], numbers: Sequence[int], layout: Layout) -> _Batch:
    requests = [request for number in numbers for request in units[number]]
    [group, *_] = layout.groups(requests, [range(len(requests))])
    return _Batch(numbers, group.rows)


def _cut(
    batch: _Batch, units: Sequence[Sequence[Request]], layout: Layout, graph: Graph | None
) -> Iterator[_Batch]:
    """Halve a batch until its parts fit; run layers again where a unit alone does not.

    Raises:
        NoRoom: one does not fit even so.
    """
    if graph is None or graph.fits(batch.rows, lean=False, logits=COPIES):
        yield batch
        return
    alone = [_laid_out(units, [number], layout) for number in batch.numbers]
    lean = not all(graph.fits(one.rows, lean=False, logits=COPIES) for one in alone)
    if lean and not all(graph.fits(one.rows, lean=True, logits=COPIES) for one in alone):
        raise NoRoom
    waiting = [replace(batch, lean=lean)]
    while waiting:
        part = waiting.pop()
        if len(part.numbers) == 1 or graph.fits(part.rows, lean, COPIES):
            yield part
            continue
        middle = len(part.numbers) // 2
        waiting += [
            replace(_laid_out(units, half, layout), lean=lean)
            for half in (part.numbers[middle:], part.numbers[:middle])
        ]


def _run(
    model: PreTrainedModel,
    path: Path,
    units: Sequence[Sequence[Request]],
    batch: _Batch,
    derivatives: Derivatives,
    backward: Backward,
    answers: list[list[LogLikelihood]],
) -> None:
    """Run a batch forwards, enter its answers, and run its losses backwards."""
    requests = [request for number in batch.numbers for request in units[number]]
    owners = [(number, k) for number in batch.numbers for k in range(len(units[number]))]
    with torch.enable_grad():
        found, greedy = _score(model, path, requests, batch.rows)
    values = found.detach().tolist()
    for (number, k), value, best in zip(owners, values, greedy, strict=True):
        answers[number][k] = LogLikelihood(value, best)
    factors: dict[str, list[float]] = {}
    start = 0
    for number in batch.numbers:
        stop = start + len(units[number])
        for loss, own in derivatives(number, values[start:stop]).items():
            factors.setdefault(loss, [0.0] * len(requests))[start:stop] = own
        start = stop
    for i, (loss, row) in enumerate(factors.items()):
        weights = torch.tensor(row, device=found.device, dtype=found.dtype)
        backward(loss, found @ weights, i + 1 < len(factors))


def _batches(
    units: Sequence[Sequence[Request]], kinds: Sequence[Hashable], tokens: int, picked: int
) -> Iterator[list[int]]:
    """Numbers of units of one kind, longest first, as many together as the limits allow."""
    by_kind: dict[Hashable, list[int]] = {}
    for number, kind in enumerate(kinds):
        if units[number]:
            by_kind.setdefault(kind, []).append(number)
    for numbers in by_kind.values():
        yield from _kind_batches(units, numbers, tokens, picked)


def _kind_batches(
    units: Sequence[Sequence[Request]], numbers: Sequence[int], tokens: int, picked: int
) -> Iterator[list[int]]:
    batch: list[int] = []
    n_tokens = n_picked = 0
    longest = {n: max(len(request.inputs) for request in units[n]) for n in numbers}
    for number in sorted(numbers, key=lambda number: -longest[number]):
        own = unique_tokens(units[number])
        targets = sum(len(request.targets) for request in units[number])
        if batch and (n_tokens + own > tokens or n_picked + targets > picked):
            yield batch
            batch, n_tokens, n_picked = [], 0, 0
        batch.append(number)
        n_tokens += own
        n_picked += targets
    if batch:
        yield batch


def _score(
    model: PreTrainedModel, path: Path, requests: Sequence[Request], rows: Sequence[Row]
) -> tuple[Tensor, list[bool]]:
    """Summed log-probabilities of each request's targets, with their graph, and whether greedy
    decoding gives the targets."""
    logits, places, targets, spans = run_rows(model, path, requests, rows)
    device = logits.device
    read, wanted = torch.tensor(places, device=device), torch.tensor(targets, device=device)
    values, best = Chosen.apply(logits, read, wanted)  # type: ignore[no-untyped-call]
    owner = torch.empty(len(places), dtype=torch.long)
    greedy = [True] * len(requests)
    for number, start, stop in spans:
        owner[start:stop] = number
        greedy[number] = bool(best[start:stop].all())
    sums = torch.zeros(len(requests), dtype=values.dtype, device=device)
    return sums.index_add(0, owner.to(device), values), greedy


class Chosen(torch.autograd.Function):
    """Log-probabilities of targets, of which nothing but the logits is kept.

    The gradient of log p(t) with respect to logits z is e_t − softmax(z). It is written once, when
    the factors of all log-probabilities are known.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, read: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities of ids at places, and whether they are the largest there."""
        values, greedy, sums = read_targets(logits, read, wanted, keep=True)
        ctx.save_for_backward(logits, read, wanted, sums)
        ctx.mark_non_differentiable(greedy)
        return values, greedy

    @staticmethod
    def backward(ctx: Any, *factors: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of Σ factor · log p with respect to the logits."""
        logits, read, wanted, sums = ctx.saved_tensors
        each = torch.zeros_like(sums).index_add(0, read, factors[0]).unsqueeze(1)
        gradient = torch.empty_like(logits)
        for parts in zip(
            *(t.split(cached_rows(logits)) for t in (logits, sums.unsqueeze(1), each, gradient)),
            strict=True,
        ):
            part, total, factor, out = parts
            out.copy_((part.float() - total).exp_().mul_(-factor))
        gradient.index_put_((read, wanted), factors[0].to(gradient.dtype), accumulate=True)
        return gradient, None, None
