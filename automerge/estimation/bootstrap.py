"""Resampling items with replacement."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from automerge.arrays import Floats

MAX_ELEMENTS = 2**22
"""Elements of the largest array in memory at once."""


def resample_counts(rng: np.random.Generator, draws: int, n: int) -> Floats:
    """Draw `n` of `n` things with replacement; return how often each was drawn: (draws, n)."""
    picked = rng.integers(n, size=(draws, n)) + n * np.arange(draws)[:, None]
    return np.bincount(picked.ravel(), minlength=draws * n).reshape(draws, n).astype(np.float64)


def blocks(draws: int, elements: int) -> Iterator[int]:
    """Yield sizes of blocks of draws that add up to `draws`, for `elements` numbers per draw."""
    size = max(1, MAX_ELEMENTS // elements)
    for start in range(0, draws, size):
        yield min(size, draws - start)
