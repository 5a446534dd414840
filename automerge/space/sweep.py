"""A reference that needs no search: linear merges of the sources on a lattice of the simplex."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from automerge.recipe import Profile, Recipe, RecipeSource


def simplex_sweep(sources: Sequence[str], steps: int) -> Iterator[tuple[str, Recipe]]:
    """Yield names and recipes of the averages whose weights are multiples of 1 / `steps`.

    As in rewarded soups (Ramé et al. 2023, arXiv:2306.04488), weights are at least 0 and sum to 1.
    The sources themselves and their uniform average, which every study has, are left out.
    """
    for counts in _lattice(len(sources), steps):
        if max(counts) == steps or min(counts) == max(counts):
            continue
        weights = [
            RecipeSource(name, {"weight": Profile.of(count / steps)})
            for name, count in zip(sources, counts, strict=True)
            if count
        ]
        yield f"sweep-{'-'.join(map(str, counts))}", Recipe("linear", tuple(weights))


def sweep_size(n_sources: int, steps: int) -> int:
    """Return how many merges `simplex_sweep` yields."""
    if not steps:
        return 0
    points = math.comb(steps + n_sources - 1, n_sources - 1)
    return points - n_sources - (n_sources > 1 and steps % n_sources == 0)


def _lattice(n: int, total: int) -> Iterator[tuple[int, ...]]:
    """Yield all tuples of `n` whole numbers from 0 that add up to `total`."""
    if n == 1:
        yield (total,)
        return
    for first in range(total, -1, -1):
        for rest in _lattice(n - 1, total - first):
            yield (first, *rest)
