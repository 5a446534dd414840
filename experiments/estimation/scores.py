"""The table of item scores that `table` makes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

FAILED = 255
Scores: TypeAlias = NDArray[np.uint8]
"""0 or 1, (objectives, items)."""


@dataclass(frozen=True)
class Table:
    """Every recipe's score on every item.

    `scores` (recipes, objectives, items) are 0 or 1; `positions` (recipes, coordinates) NaN where
    the space cannot express a recipe; `streams` says who proposed it.
    """

    scores: Scores
    positions: NDArray[np.float64]
    streams: tuple[str, ...]

    def rows(self, stream: str) -> NDArray[np.intp]:
        """The recipes of a stream, in order."""
        return np.flatnonzero(np.array(self.streams) == stream)


def read_table(folder: Path) -> Table:
    """All recipes that could be scored so far, in the order they were proposed."""
    scores, positions, streams = read_chunks(folder)
    good = np.flatnonzero((scores != FAILED).all(axis=(1, 2)))
    return Table(scores[good], positions[good], tuple(streams[i] for i in good))


def read_chunks(folder: Path) -> tuple[Scores, NDArray[np.float64], list[str]]:
    """The same with recipes that failed."""
    chunks = [np.load(path) for path in sorted(folder.glob("chunk-*.npz"))]
    if not chunks:
        return np.zeros((0, 0, 0), dtype=np.uint8), np.zeros((0, 0)), []
    return (
        np.concatenate([chunk["scores"] for chunk in chunks]),
        np.concatenate([chunk["positions"] for chunk in chunks]),
        [str(name) for chunk in chunks for name in chunk["streams"]],
    )
