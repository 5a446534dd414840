"""Lay log-likelihood requests out as few tokens as possible: pure functions of token ids.

Requests of one document share most of their tokens. A row holds the shared tokens once and each
request's own tokens behind them, as the branches of a tree; a branch sees the shared tokens and
itself (tree attention, Miao et al. 2024, arXiv:2305.09781).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

SHARED = 0
"""Segment number of the tokens every branch sees; branches are numbered from 1."""

UNLIMITED = 2**62

MIN_SAVING = 0.1
"""A tree needs an explicit mask, so it must save at least this share of the tokens."""


@dataclass(frozen=True, slots=True)
class Request:
    """Input tokens of a causal model, and the targets that its last positions predict."""

    inputs: tuple[int, ...]
    targets: tuple[int, ...]

    @property
    def context(self) -> tuple[int, ...]:
        return self.inputs[: len(self.inputs) - len(self.targets) + 1]


@dataclass(frozen=True, slots=True)
class Pick:
    """Which request a row answers, and the columns whose outputs predict its targets."""

    request: int
    columns: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a batch: tokens with their positions and segments, and what to read off."""

    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    segments: tuple[int, ...]
    picks: tuple[Pick, ...]

    @property
    def branches(self) -> bool:
        """Whether the row needs a tree mask; otherwise plain causal attention is the same."""
        return self.segments[-1] > 1


def request(context: Sequence[int], continuation: Sequence[int], max_length: int) -> Request:
    """Cut a context and its continuation to the model's length from the left, as lm-eval does."""
    whole = (*context, *continuation)[-(max_length + 1) :]
    return Request(whole[:-1], tuple(continuation))


def linear_rows(requests: Sequence[Request], numbers: Sequence[int]) -> list[Row]:
    """One row for each distinct input."""
    by_inputs: dict[tuple[int, ...], list[int]] = {}
    for number in numbers:
        by_inputs.setdefault(requests[number].inputs, []).append(number)
    return [_row(requests, same) for same in by_inputs.values()]


def packed_rows(
    requests: Sequence[Request], numbers: Sequence[int], max_position: int
) -> list[Row]:
    """Rows for the requests of one document: a tree where it saves tokens, else linear rows.

    Rows reaching `max_position` stay linear (a sliding window would cut them otherwise).
    """
    rows = []
    for cluster in _clusters(requests, numbers):
        linear = linear_rows(requests, cluster)
        tree = _row(requests, cluster)
        fits = max(tree.positions) < max_position
        saves = len(tree.tokens) <= (1 - MIN_SAVING) * _tokens(linear)
        rows += [tree] if fits and saves else linear
    apart = linear_rows(requests, numbers)
    return rows if _tokens(rows) <= _tokens(apart) else apart


@dataclass(frozen=True, slots=True)
class Document:
    """The requests of one document, and both ways to lay them out."""

    requests: tuple[Request, ...]
    linear: tuple[Row, ...]
    packed: tuple[Row, ...]

    @classmethod
    def of(cls, requests: Sequence[Request], max_position: int = UNLIMITED) -> Document:
        """Lay the requests out once, for every candidate to come."""
        numbers = range(len(requests))
        linear = linear_rows(requests, numbers)
        packed = packed_rows(requests, numbers, max_position)
        return cls(tuple(requests), tuple(linear), tuple(packed))


Placed: TypeAlias = tuple[int, Row]
"""A row with the number of its document."""


def batches(rows: Sequence[Placed], batch_size: int, max_picked: int) -> Iterator[list[Placed]]:
    """Rows, longest first, at most `batch_size` together and `max_picked` columns read off."""
    batch: list[Placed] = []
    picked = 0
    for number, row in sorted(rows, key=lambda placed: -len(placed[1].tokens)):
        columns = sum(len(pick.columns) for pick in row.picks)
        if batch and (len(batch) == batch_size or picked + columns > max_picked):
            yield batch
            batch, picked = [], 0
        batch.append((number, row))
        picked += columns
    if batch:
        yield batch


def _clusters(requests: Sequence[Request], numbers: Sequence[int]) -> list[list[int]]:
    """All requests together where they share half their tokens, else those of equal context."""
    if not numbers:
        return []
    inputs = [requests[number].inputs for number in numbers]
    if 2 * _common_prefix(inputs) >= max(map(len, inputs)):
        return [list(numbers)]
    by_context: dict[tuple[int, ...], list[int]] = {}
    for number in numbers:
        by_context.setdefault(requests[number].context, []).append(number)
    return list(by_context.values())


def _row(requests: Sequence[Request], numbers: Sequence[int]) -> Row:
    shared = _common_prefix([requests[number].inputs for number in numbers])
    tokens = list(requests[numbers[0]].inputs[:shared])
    positions, segments = list(range(shared)), [SHARED] * shared
    start: dict[tuple[int, ...], int] = {}
    picks = []
    for number in numbers:
        inputs, targets = requests[number].inputs, requests[number].targets
        branch = inputs[shared:]
        if branch not in start:
            start[branch] = len(tokens)
            if branch:
                tokens += branch
                positions += range(shared, shared + len(branch))
                segments += [segments[-1] + 1] * len(branch) if segments else [1] * len(branch)
        offset = start[branch] - shared
        columns = range(len(inputs) - len(targets), len(inputs))
        picks.append(Pick(number, tuple(c if c < shared else c + offset for c in columns)))
    return Row(tuple(tokens), tuple(positions), tuple(segments), tuple(picks))


def _tokens(rows: Sequence[Row]) -> int:
    return sum(len(row.tokens) for row in rows)


def _common_prefix(sequences: Sequence[tuple[int, ...]]) -> int:
    low, high = min(sequences), max(sequences)
    for index, token in enumerate(low):
        if token != high[index]:
            return index
    return len(low)
