"""A pool of LoRA adapters, divided into a few clusters: model-based clustering.

MBC (Ostapenko et al. 2024, arXiv:2405.11157, section 3.2) runs k-means on adapters' parameters,
reduced by an SVD and compared by cosines, so that each cluster becomes one adapter of a library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from automerge.checkpoints import Checkpoint, LowRank, low_rank
from automerge.checkpoints.reader import shown
from automerge.errors import Fault, PreflightError
from automerge.machine.processors import one_thread

MAX_STEPS = 100
"""Steps of one run of k-means; few adapters take few."""


@dataclass(frozen=True)
class Cluster:
    """Adapters that become one, and the mean cosine of their changes with the cluster's centre."""

    names: tuple[str, ...]
    cosine: float


def factors(adapters: Mapping[str, Checkpoint], base: Checkpoint) -> dict[str, dict[str, LowRank]]:
    """Return each adapter's factors by the tensor that they change.

    Raises:
        PreflightError: an adapter changes other tensors than the first, or some as a whole, for
            which routing between adapters has no place.
    """
    found: dict[str, dict[str, LowRank]] = {}
    faults = []
    for name, adapter in adapters.items():
        updates = {tensor: low_rank.update(adapter, tensor) for tensor in base.tensors}
        found[name] = {tensor: own for tensor, own in updates.items() if own is not None}
        whole = [n for n in base.tensors if updates[n] is None and _differs(adapter, base, n)]
        first = next(iter(found))
        other = sorted(found[name].keys() ^ found[first].keys())
        if not found[name] or whole:
            more = f"; it changes {shown(whole)} as a whole" if whole else ""
            faults.append(Fault(f"{name!r} is not made of LoRA factors alone{more}: leave it out"))
        elif other:
            what = f"{shown(other)} by one of {first!r} and {name!r} only"
            faults.append(Fault(f"adapters of a library change the same matrices; got {what}"))
    if faults:
        raise PreflightError(faults)
    return found


def _differs(adapter: Checkpoint, base: Checkpoint, tensor: str) -> bool:
    return not torch.equal(adapter.read(tensor), base.read(tensor))


def cosines(pool: Sequence[Mapping[str, LowRank]]) -> Tensor:
    """Return the cosines of adapters' changes B A, over all matrices together, (n, n), float64.

    ⟨B A, D C⟩ = ⟨Bᵀ D, A Cᵀ⟩: no product is multiplied out.
    """
    n = len(pool)
    products = torch.zeros(n, n, dtype=torch.float64)
    with one_thread():
        for i, one in enumerate(pool):
            for j, other in enumerate(pool[: i + 1]):
                total = sum(_inner(one[tensor], other[tensor]) for tensor in one)
                products[i, j] = products[j, i] = total
    norms = products.diagonal().sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    return products / norms[:, None] / norms


def _inner(one: LowRank, other: LowRank) -> float:
    up = one.up.double().T @ other.up.double()
    down = one.down.double() @ other.down.double().T
    return one.scale * other.scale * float((up * down).sum())


def clustered(found: Tensor, count: int, dimensions: int | None = None) -> list[list[int]]:
    """Divide points into clusters by k-means with cosines, in the order of their first members.

    The best of as many runs as there are points, each begun from another point and those farthest
    from what was chosen before.

    Args:
        found: the points' cosines, (n, n).
        count: from 1 to n.
        dimensions: how many leading singular directions are kept; None for all.
    """
    values, vectors = torch.linalg.eigh(found)
    points = vectors * values.clamp(min=0).sqrt()
    points = points[:, -(dimensions or len(found)) :]
    points = points / points.norm(dim=1, keepdim=True).clamp(min=torch.finfo(points.dtype).tiny)
    runs = [_run(points, first, count) for first in range(len(points))]
    _, labels = max(runs, key=lambda run: run[0])
    members: dict[int, list[int]] = {}
    for point, label in enumerate(labels):
        members.setdefault(label, []).append(point)
    return list(members.values())


def _run(points: Tensor, first: int, count: int) -> tuple[float, list[int]]:
    """Return the sum of cosines with the centres, and the label of each point."""
    chosen = [first]
    while len(chosen) < count:
        nearest = (points @ points[chosen].T).amax(1)
        nearest[chosen] = torch.inf
        chosen.append(int(nearest.argmin()))
    centres = points[chosen]
    labels: list[int] = []
    for _ in range(MAX_STEPS):
        near = points @ centres.T
        before, labels = labels, _filled(near, count)
        if labels == before:
            break
        rows = torch.tensor(labels)
        sums = torch.stack([points[rows == label].sum(0) for label in range(count)])
        centres = sums / sums.norm(dim=1, keepdim=True).clamp(min=torch.finfo(sums.dtype).tiny)
    # Twelve digits: of runs that differ by rounding alone, the first is taken.
    return round(float(near.gather(1, torch.tensor(labels)[:, None]).sum()), 12), labels


def _filled(near: Tensor, count: int) -> list[int]:
    """Return the nearest centre of each point; the worst served point for a centre without any."""
    labels: list[int] = near.argmax(1).tolist()
    served = near.amax(1)
    for label in range(count):
        if label not in labels:
            alone = torch.tensor([labels.count(own) == 1 for own in labels])
            worst = int(served.masked_fill(alone, torch.inf).argmin())
            labels[worst] = label
    return labels


def library(
    pool: Mapping[str, Mapping[str, LowRank]], count: int, dimensions: int | None = None
) -> list[Cluster]:
    """Divide adapters into `count` clusters by what they change."""
    names = list(pool)
    alike = cosines(list(pool.values()))
    found = []
    for members in clustered(alike, count, dimensions):
        within = alike[members][:, members]
        # The cosine of x with a centre c = Σ y is ⟨x, c⟩ / ‖c‖ for unit vectors.
        centre = float(within.sum().clamp(min=0).sqrt())
        cosine = float(within.sum(1).mean()) / centre if centre else 0.0
        found.append(Cluster(tuple(names[member] for member in members), cosine))
    return found
