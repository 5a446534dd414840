"""Drawing items again, with replacement."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from automerge.arrays import Floats

BLOCK_ELEMENTS = 2**22
"""Elements of the largest array held at once."""


def resample_counts(rng: np.random.Generator, draws: int, n: int) -> Floats:
    """How often each of `n` things is drawn, (draws, n): multinomial, each row adds up to n."""
    picked = rng.integers(n, size=(draws, n)) + n * np.arange(draws)[:, None]
    return np.bincount(picked.ravel(), minlength=draws * n).reshape(draws, n).astype(np.float64)


def blocks(draws: int, elements: int) -> Iterator[int]:
    """Sizes that add up to `draws`, of which each holds `elements` numbers a draw and fits."""
    size = max(1, BLOCK_ELEMENTS // elements)
    for start in range(0, draws, size):
        yield min(size, draws - start)
