"""The sequences of tokens that a model is run on, and how far that is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

Pieces: TypeAlias = Sequence[Sequence[int]]
"""Sequences of token ids."""
Progress: TypeAlias = Callable[[int, int], None]
"""Told the number of sequences done and in total."""


def counted(pieces: Pieces, progress: Progress | None) -> Iterator[Sequence[int]]:
    """Yield the sequences, and tell after each how many are done."""
    for done, piece in enumerate(pieces, start=1):
        yield piece
        if progress is not None:
            progress(done, len(pieces))
