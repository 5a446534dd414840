"""Resampling of items, or of clusters of items that belong together."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from automerge.estimation.intervals import (
    Interval,
    equal_scores_interval,
    is_constant,
    is_unit,
)

Floats = NDArray[np.float64]

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


def cluster_bootstrap(
    values: Floats,
    clusters: Sequence[Hashable],
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Give the percentile interval of a mean, clusters drawn whole and with replacement.

    Items of a cluster (questions on one passage, near duplicates) are right or wrong together, so
    they count for less than as many others. Efron & Tibshirani (1993), section 13.3, and Cameron,
    Gelbach & Miller (2008), Rev. Econ. Stat. 90, 414-427, section II.B. `n` is the number of
    clusters; items that are all equal never give an interval of width zero.
    """
    totals, sizes = _by_cluster(values, clusters)
    n = len(totals)
    mean = float(values.mean())
    stderr = clustered_standard_error(values, clusters)
    if is_constant(values, float(np.abs(values).max())):
        lowest, highest = (0.0, 1.0) if is_unit(values) else (-math.inf, math.inf)
        return Interval(mean, *equal_scores_interval(mean, n, lowest, highest, level), stderr, n)
    if n == 1:
        return Interval(mean, -math.inf, math.inf, stderr, n)
    rng = np.random.default_rng(seed)
    means = []
    for size in blocks(draws, n):
        counts = resample_counts(rng, size, n)
        means.append((counts @ totals) / (counts @ sizes))
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(mean, float(low), float(high), stderr, n)


def clustered_standard_error(values: Floats, clusters: Sequence[Hashable]) -> float:
    """Give the standard error of a mean over items that come in clusters.

    Miller (2024), arXiv:2411.00640, section 2.2, with the usual factor for few clusters, so that
    clusters of one item each give the sample standard error. Infinite for a single cluster.
    """
    totals, sizes = _by_cluster(values, clusters)
    n = len(totals)
    if n == 1:
        return math.inf
    residuals = totals - sizes * values.mean()
    return math.sqrt(n / (n - 1) * float(residuals @ residuals)) / len(values)


def _by_cluster(values: Floats, clusters: Sequence[Hashable]) -> tuple[Floats, Floats]:
    """Sum and number of the values of each cluster, in the order clusters first appear."""
    if len(values) != len(clusters) or not len(values):
        raise ValueError(f"{len(values)} values in {len(clusters)} clusters; give one each")
    numbers: dict[Hashable, int] = {}
    codes = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]
    totals = np.bincount(codes, np.asarray(values, dtype=np.float64)).astype(np.float64)
    return totals, np.bincount(codes).astype(np.float64)
