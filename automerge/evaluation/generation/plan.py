"""How answers share memory: which beginning is run once, how many rows, and how long they are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from automerge.evaluation.fitting import Found, run_with_less
from automerge.evaluation.generation.asks import Ask

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM

logger = logging.getLogger(__name__)

DEVICE_ROWS = 8
"""Rows per request of a batch on a GPU: a row runs a token at a time, a batch's whole requests."""

MIN_SHARED = 8
"""Tokens that prompts begin with for these to be run apart."""


@dataclass(frozen=True)
class Plan:
    """How many rows are under way at once, how many tokens each has room for, and the prefix that
    is run once for all of them."""

    rows: int
    length: int
    prefix: tuple[int, ...] = ()


def rows_at_once(lm: HFLM) -> int:
    """Return how many answers may be under way with the batch size of lm-eval's wrapper."""
    return int(lm.batch_size) * (1 if lm.model.device.type == "cpu" else DEVICE_ROWS)


def run_halving(rows: int, run: Callable[[int], Found]) -> tuple[Found, int]:
    """Run something with some rows, or with half as many while memory runs out.

    Returns:
        What it found, and how many rows fitted.
    """
    fitted = rows

    def halve() -> bool:
        nonlocal fitted
        if fitted == 1:
            return False
        fitted //= 2
        logger.warning("out of memory: answers under way are halved, to %d", fitted)
        return True

    return run_with_less(lambda: run(fitted), halve), fitted


def shares(prompt: Sequence[int], prefix: Sequence[int]) -> bool:
    """Return whether a prompt begins with a prefix and goes on."""
    size = len(prefix)
    return 0 < size < len(prompt) and tuple(prompt[:size]) == tuple(prefix)


def own(prompt: Sequence[int], prefix: Sequence[int]) -> Sequence[int]:
    """Return what a row holds of a prompt: what follows the prefix, or all."""
    return prompt[len(prefix) :] if shares(prompt, prefix) else prompt


def plans(
    asks: Sequence[Ask], most_rows: int, most_tokens: int | None
) -> list[tuple[Plan, list[int]]]:
    """Share out memory among answers; return each plan with the numbers of the asks it is for.

    Args:
        asks: one or more.
        most_rows: how many answers may be under way.
        most_tokens: how many tokens' keys and values fit into memory; None is no limit. An ask that
            needs more is planned alone, for memory may hold more than its share.
    """
    prefix = shared_beginning([ask.prompt for ask in asks])
    room = None if most_tokens is None else most_tokens - len(prefix)
    needs = [_need(ask, prefix) for ask in asks]
    together = [number for number, need in enumerate(needs) if room is None or need <= room]
    alone = sorted(set(range(len(asks))) - set(together))
    planned = [(Plan(1, _need(asks[number], ())), [number]) for number in alone]
    if together:
        length = max(needs[number] for number in together)
        rows = min(most_rows, len(together))
        rows = rows if room is None else min(rows, room // length)
        planned.insert(0, (Plan(rows, length, prefix), together))
    return planned


def _need(ask: Ask, prefix: Sequence[int]) -> int:
    """Return the columns an ask may fill: the last token of an answer is not run."""
    return len(own(ask.prompt, prefix)) + ask.limit - 1


def shared_beginning(prompts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the beginning that saves most tokens if it is run once, and leaves each prompt one.

    In sorted order it is the largest rectangle under the bars of what neighbours have in common.
    """
    ordered = sorted(prompts)
    bars = [min(_common(a, b), len(a) - 1, len(b) - 1) for a, b in pairwise(ordered)]
    best, found = 0, (0, 0)
    rising: list[tuple[int, int]] = []
    for place, bar in enumerate([*bars, 0]):
        first = place
        while rising and rising[-1][1] >= bar:
            first, size = rising.pop()
            sharers = place - first + 1
            saved = size * (sharers - 1)
            if size >= MIN_SHARED and saved > best:
                best, found = saved, (first, size)
        rising.append((first, bar))
    return tuple(ordered[found[0]][: found[1]])


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Count the tokens that two prompts have in common at their beginning."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((place for place, (x, y) in pairs if x != y), min(len(a), len(b)))
