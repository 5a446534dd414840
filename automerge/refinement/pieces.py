"""Sequences of tokens for steps, for choosing among steps, and for the figures that are shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

Piece: TypeAlias = tuple[int, ...]
"""Token ids of one sequence, at least two."""

LEAST = 10
"""Sequences that a text must have, at least."""


@dataclass(frozen=True)
class Pieces:
    """The parts of a text: steps follow `train`, the best step is chosen on `check`, and `held`
    is not seen until the end."""

    train: tuple[Piece, ...]
    check: tuple[Piece, ...]
    held: tuple[Piece, ...]


def divided(pieces: Iterable[Sequence[int]], seed: int) -> Pieces | None:
    """Divide sequences at random, a tenth each for `check` and `held`.

    Equal sequences count once, so that none is in two parts. None if there are fewer than `LEAST`.
    """
    known = list(dict.fromkeys(tuple(piece) for piece in pieces if len(piece) > 1))
    if len(known) < LEAST:
        return None
    order = np.random.default_rng([seed, 0]).permutation(len(known))
    mixed = [known[i] for i in order]
    tenth = round(len(known) / 10)
    return Pieces(tuple(mixed[2 * tenth :]), tuple(mixed[:tenth]), tuple(mixed[tenth : 2 * tenth]))


def batches(pieces: Sequence[Piece], tokens: int, seed: int) -> Iterator[tuple[Piece, ...]]:
    """Yield batches without end, each of about so many tokens, and of at least one sequence.

    Every sequence comes once before any comes again, each time in another order.
    """
    waiting: list[Piece] = []
    round_number = 0
    while True:
        batch: list[Piece] = []
        size = 0
        while not batch or size < tokens:
            if not waiting:
                round_number += 1
                order = np.random.default_rng([seed, round_number]).permutation(len(pieces))
                waiting = [pieces[i] for i in order[::-1]]
                if batch:  # A batch holds no sequence twice.
                    break
            batch.append(waiting.pop())
            size += len(batch[-1])
        yield tuple(batch)
