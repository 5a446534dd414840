"""Items that belong together: questions on one passage, near duplicates."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

from automerge.arrays import Floats


def clustered_standard_error(values: Floats, clusters: Sequence[Hashable]) -> float:
    """Return the standard error of a mean over items that come in clusters.

    Miller (2024), arXiv:2411.00640, section 2.2, with the usual factor for few clusters, so that
    clusters of one item each give the sample standard error. Infinite for a single cluster.
    """
    totals, sizes = by_cluster(values, clusters)
    n = len(totals)
    if n == 1:
        return math.inf
    # √(G/(G − 1) Σ_g (Σ_i (s_gi − s̄))²) / n, of G clusters: Miller 2024, section 2.2
    residuals = totals - sizes * values.mean()
    return math.sqrt(n / (n - 1) * float(residuals @ residuals)) / len(values)


def by_cluster(values: Floats, clusters: Sequence[Hashable]) -> tuple[Floats, Floats]:
    """Return the sum and number of the values of each cluster, by first appearance.

    Raises:
        ValueError: there are no values, or another number of clusters.
    """
    if len(values) != len(clusters) or not len(values):
        raise ValueError(f"{len(values)} values in {len(clusters)} clusters; give one per value")
    numbers: dict[Hashable, int] = {}
    codes = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]
    totals = np.bincount(codes, np.asarray(values, dtype=np.float64)).astype(np.float64)
    return totals, np.bincount(codes).astype(np.float64)
