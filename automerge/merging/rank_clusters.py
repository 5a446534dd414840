"""LoRA adapters taken apart into their ranks, clustered, and put together from clusters' centroids.

LoRA-LEGO (Zhao et al. 2025, Merging LoRAs like playing LEGO, arXiv:2409.16167): a unit is one rank
of an adapter, a column of B with a row of A. Units of all adapters are clustered by k-means, and
each cluster's centroid becomes one rank of the result.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from automerge.checkpoints import LowRank
from automerge.machine.processors import one_thread

RUNS = 8
"""Runs of k-means from different random units, of which the tightest clusters are taken."""


def merged_units(adapters: Sequence[LowRank], rank: int) -> tuple[Tensor, Tensor]:
    """Return the factors of one matrix's change, (m, rank) and (rank, n), in float32.

    A centroid is shorter than its units on average, and is brought to their mean norm; the product
    is scaled by √(r / k), r the adapters' mean rank and k the number of clusters (the paper's
    parameter and output reweighting). Both factors of a unit have the root of its adapter's scale.
    There are `rank` clusters or, if that is less, as many as the adapters have ranks together;
    further ranks are 0.

    Args:
        adapters: at least one.
        rank: of the result.
    """
    units = torch.cat([_units(adapter) for adapter in adapters])
    count = min(rank, len(units))
    with one_thread():
        labels = torch.tensor(clusters(units, count))
    merged = units.new_zeros(rank, units.shape[1])
    for label in range(count):
        members = units[labels == label]
        centre = members.mean(0)
        norm = centre.norm().clamp(min=torch.finfo(units.dtype).tiny)
        merged[label] = centre * (members.norm(dim=1).mean() / norm)
    rows = adapters[0].up.shape[0]
    up, down = merged[:, :rows], merged[:, rows:]
    factor = (len(units) / len(adapters) / count) ** 0.25
    return (up.T * factor).float().contiguous(), (down * factor).float().contiguous()


def clusters(points: Tensor, count: int) -> list[int]:
    """Return a label in [0, count) for each of (n, d) points; every label has a point.

    k-means with Euclidean distances, from the points' Gram matrix: n is small, d is not.
    """
    from scipy.cluster.vq import ClusterError, kmeans2

    values, vectors = torch.linalg.eigh(points @ points.T)
    reduced = (vectors * values.clamp(min=0).sqrt()).numpy()
    best: tuple[float, list[int]] | None = None
    for seed in range(RUNS):
        try:
            centres, found = kmeans2(
                reduced, count, iter=100, minit="++", missing="raise", seed=seed
            )
        except ClusterError:  # a cluster lost its last point
            continue
        spread = float(((reduced - centres[found]) ** 2).sum())
        if best is None or spread < best[0]:
            best = spread, found.tolist()
    return best[1] if best is not None else [min(i, count - 1) for i in range(len(points))]


def _units(adapter: LowRank) -> Tensor:
    """Return an adapter's ranks, each with its column of B before its row of A: (r, m + n)."""
    root = abs(adapter.scale) ** 0.5
    up = adapter.up.double().T * (root if adapter.scale > 0 else -root)
    return torch.cat([up, adapter.down.double() * root], dim=1)
