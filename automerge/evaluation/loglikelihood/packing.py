"""Lay out log-likelihood requests in as few tokens as possible: pure functions of token ids.

All requests of a task form a trie. In sorted order each request continues the path of the one
before it, so a row is a run of that order: its nodes depth first, each token seen by those below it
(tree attention, Miao et al. 2024, arXiv:2305.09781). If more requests share a long beginning, such
as few-shot examples, than fit into a row, the rows leave it out (cf. Hydragen, Juravsky et al.
2024, arXiv:2402.05099).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise
from math import isqrt

UNLIMITED = 2**62
MAX_ROW = 1024
"""Most tokens in a row, unless two requests as long as its longest need more."""

MIN_SAVING = 0.1
"""A request joins a row if the row already holds at least this share of its tokens."""

ROW_COST = 5
"""The cost, in tokens, of a row behind a prefix, whose keys and values are copied for it."""

TOKEN_BYTES = array("i").itemsize


@dataclass(frozen=True)
class Request:
    """Input tokens for a causal model, and the targets that its last positions predict.

    For a model with an encoder, what that reads, and the targets that its decoder predicts.
    """

    inputs: tuple[int, ...]
    targets: tuple[int, ...]

    @property
    def scored_from(self) -> int:
        """The position that predicts the first target."""
        return len(self.inputs) - len(self.targets)

    @cached_property
    def key(self) -> bytes:
        """The inputs, in a form that sorts and compares fast."""
        return array("i", self.inputs).tobytes()


@dataclass(frozen=True, slots=True)
class Pick:
    """Which request a row answers, and the columns whose outputs predict its targets."""

    request: int
    columns: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a batch: nodes of the trie, depth first, and what to read from them.

    The token at a column is seen by those from there up to its `ends`.
    """

    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    ends: tuple[int, ...]
    picks: tuple[Pick, ...]

    @property
    def branches(self) -> bool:
        """Whether the row needs a tree mask; otherwise plain causal attention is the same."""
        return min(self.ends) < len(self.tokens)


@dataclass(frozen=True, slots=True)
class Group:
    """Rows behind one prefix, which is run once for all of them; empty if rows hold all tokens."""

    prefix: tuple[int, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Layout:
    """What a model supports, and what pays off on it.

    Attributes:
        trees: rows may branch.
        prefixes: rows may leave out a prefix of at least `min_prefix` tokens that `min_sharers`
            requests share; it is run in a separate call.
        max_position: requests of more tokens stay alone (a sliding window would cut them).
        pairs_per_token: pairs of tokens that attend in the time that a token takes elsewhere.
    """

    trees: bool = False
    prefixes: bool = False
    max_position: int = UNLIMITED
    pairs_per_token: int = 2048
    min_prefix: int = 32
    min_sharers: int = 32

    @property
    def width(self) -> int:
        """Tokens of a row behind a prefix if requests share no more than that.

        A row of w tokens computes w²/2 pairs: with the row's own cost, a token costs least at this
        w.
        """
        return isqrt(2 * ROW_COST * self.pairs_per_token)

    def groups(self, requests: Sequence[Request], sets: Sequence[Sequence[int]]) -> list[Group]:
        """Lay out all requests, set by set; the first group does not have a prefix."""
        rows: list[Row] = []
        groups: list[Group] = []
        for numbers in sets:
            ordered = sorted(numbers, key=lambda number: requests[number].key)
            keys = [requests[number].key for number in ordered]
            shared = [0, *(_common(a, b) for a, b in pairwise(keys))]
            for start, stop, prefix in self._runs([requests[n] for n in ordered], shared):
                run = _rows(requests, ordered[start:stop], shared[start:stop], prefix, self)
                if prefix:
                    tokens = requests[ordered[start]].inputs[:prefix]
                    groups.append(Group(tokens, tuple(run)))
                else:
                    rows += run
        return [Group((), tuple(rows)), *groups]

    def _runs(
        self, ordered: Sequence[Request], shared: Sequence[int]
    ) -> Iterator[tuple[int, int, int]]:
        """Cut the order into runs, each with the length of the prefix that it leaves out."""
        if not self.prefixes or max(shared, default=0) < self.min_prefix:
            yield from [(0, len(ordered), 0)] if ordered else []
            return
        most = [
            request.scored_from if len(request.inputs) <= self.max_position else 0
            for request in ordered
        ]
        bars = [0, *map(min, shared[1:], most, most[1:])]
        waiting = [(0, len(ordered))]
        while waiting:
            start, stop = waiting.pop()
            found = self._best_prefix(ordered, shared, bars, start, stop)
            if found is None:
                yield start, stop, 0
                continue
            yield found
            waiting += [(a, b) for a, b in ((start, found[0]), (found[1], stop)) if a < b]

    def _best_prefix(
        self,
        ordered: Sequence[Request],
        shared: Sequence[int],
        bars: Sequence[int],
        start: int,
        stop: int,
    ) -> tuple[int, int, int] | None:
        """Find the run that gains most from a prefix, and the prefix's length.

        It is the largest rectangle under the bars of the tokens that neighbours share: as high as
        the prefix is long, as wide as the number of requests behind it.
        """
        new = [
            len(r.inputs) - s for r, s in zip(ordered[start:stop], shared[start:stop], strict=True)
        ]
        behind = [0, *accumulate(new)]
        best, found = 0, None
        rising: list[tuple[int, int]] = []
        for place in range(start + 1, stop + 1):
            height = bars[place] if place < stop else 0
            first = place - 1
            while rising and rising[-1][1] >= height:
                first, prefix = rising.pop()
                own = behind[place - start] - behind[first - start + 1]
                own += len(ordered[first].inputs) - prefix
                shared_enough = prefix >= self.min_prefix and place - first >= self.min_sharers
                if shared_enough and own > max(self.width, prefix) and prefix * own > best:
                    best, found = prefix * own, (first, place, prefix)
            rising.append((first, height))
        return found


def request(context: Sequence[int], continuation: Sequence[int], max_length: int) -> Request:
    """Truncate a context and its continuation from the left to the model's length, as lm-eval."""
    whole = (*context, *continuation)[-(max_length + 1) :]
    return Request(whole[:-1], tuple(continuation))


def encoded_request(
    context: Sequence[int], continuation: Sequence[int], max_length: int
) -> Request:
    """Truncate a context from the left to the length of a model's encoder, as lm-eval."""
    return Request(tuple(context[-max_length:]), tuple(continuation))


def batches(rows: Sequence[Row], prefix: int, limits: Limits) -> Iterator[list[Row]]:
    """Yield rows, longest first, as many together as the limits allow, at least one."""
    batch: list[Row] = []
    picked = 0
    for row in sorted(rows, key=lambda row: -len(row.tokens)):
        columns = sum(len(pick.columns) for pick in row.picks)
        if batch and not limits.allow(
            len(batch) + 1, len(batch[0].tokens), prefix, picked + columns
        ):
            yield batch
            batch, picked = [], 0
        batch.append(row)
        picked += columns
    if batch:
        yield batch


@dataclass(frozen=True)
class Limits:
    """What one forward pass may hold: tokens (padding too), outputs, and entries of a mask."""

    tokens: int
    picked: int
    masked: int

    def allow(self, rows: int, width: int, prefix: int, picked: int) -> bool:
        seen = rows * (prefix + width)
        return seen <= self.tokens and picked <= self.picked and seen * width <= self.masked


def unique_tokens(requests: Sequence[Request]) -> int:
    """Count the trie's nodes of all requests: no causal model can answer with fewer tokens."""
    keys = sorted(request.key for request in requests)
    shared = (_common(a, b) for a, b in pairwise(keys))
    return sum(len(key) for key in keys) // TOKEN_BYTES - sum(shared)


@dataclass(slots=True)
class _Branch:
    """A row under construction; `path` holds the columns of the last request, by depth.

    `wasted` counts pairs of tokens that are computed but masked.
    """

    start: int
    wasted: int = 0
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    path: list[int] = field(default_factory=list)
    picks: list[Pick] = field(default_factory=list)

    def add(self, number: int, request: Request, shared: int) -> None:
        inputs, first = request.inputs, len(self.tokens)
        self.wasted += self.waste(request, shared)
        self.tokens += inputs[shared:]
        self.positions += range(shared, len(inputs))
        self.path[shared - self.start :] = range(first, len(self.tokens))
        self.picks.append(Pick(number, tuple(self.path[-len(request.targets) :])))

    def waste(self, request: Request, shared: int) -> int:
        """Count the pairs wasted if a request joins that shares `shared` tokens with the last."""
        return (len(request.inputs) - shared) * (len(self.tokens) - (shared - self.start))

    def row(self) -> Row:
        ends = [len(self.tokens)] * len(self.tokens)
        open_columns: list[int] = []
        for column, position in enumerate(self.positions):
            while open_columns and self.positions[open_columns[-1]] >= position:
                ends[open_columns.pop()] = column
            open_columns.append(column)
        return Row(tuple(self.tokens), tuple(self.positions), tuple(ends), tuple(self.picks))


def _rows(
    requests: Sequence[Request],
    ordered: Sequence[int],
    shared: Sequence[int],
    prefix: int,
    layout: Layout,
) -> list[Row]:
    rows: list[Row] = []
    branch = _Branch(prefix)
    for number, common in zip(ordered, shared, strict=True):
        request = requests[number]
        if branch.picks and not _joins(branch, request, common, layout):
            rows.append(branch.row())
            branch = _Branch(prefix)
        branch.add(number, request, common if branch.picks else prefix)
    return [*rows, branch.row()]


def _joins(branch: _Branch, request: Request, shared: int, layout: Layout) -> bool:
    same = shared == len(request.inputs)
    longest = branch.start + len(branch.path)
    if same or (shared == longest and len(branch.path) == len(branch.tokens)):
        return True
    if not layout.trees or max(len(request.inputs), longest) > layout.max_position:
        return False
    saved = shared - branch.start
    if branch.start:
        saved += ROW_COST
    elif shared < MIN_SAVING * len(request.inputs):
        return False
    wasted = branch.wasted + branch.waste(request, shared)
    size = len(branch.tokens) + len(request.inputs) - shared
    longest_row = max(MAX_ROW, 2 * len(request.inputs))
    return wasted <= saved * layout.pairs_per_token and size <= longest_row


def _common(a: bytes, b: bytes) -> int:
    """Count the tokens that two keys share at their beginning."""
    length = min(len(a), len(b))
    unlike = int.from_bytes(a[:length], "big") ^ int.from_bytes(b[:length], "big")
    return (length - (unlike.bit_length() + 7) // 8) // TOKEN_BYTES
