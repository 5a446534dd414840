"""Which experts of a layer are merged into one, and by what shares.

HC-SMoE (Chen et al. 2025, arXiv:2410.08589) clusters experts by their mean outputs; M-SMoE (Li et
al. 2024, arXiv:2310.01334) gathers them about those that are used most, by their router logits.
Both average a group by how often its members are chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from automerge.checkpoints.symmetries.match import assignment
from automerge.evidence.routing import Routing
from automerge.expert_groups import OUTPUTS
from automerge.machine.processors import one_thread

LEAST = 1e-12
"""The least norm of router logits that products are divided by."""


@dataclass(frozen=True)
class Group:
    """Experts that become one: their numbers in order, shares that sum to 1, and the member whose
    hidden units the others' are matched with; None where units are averaged as they are numbered.
    """

    members: tuple[int, ...]
    shares: tuple[float, ...]
    dominant: int | None = None


def grouped(routings: Sequence[Routing], by: str, count: int) -> tuple[Group, ...]:
    """Divide the experts of a layer into groups, in the order of their first members.

    Args:
        routings: of each source on its text, with the same number of experts n; together they stand
            for the router's choices on all texts.
        by: `outputs` or `routing`.
        count: how many groups, from 1 to n.
    """
    shares = torch.stack([own.shares.double() for own in routings]).mean(0)
    if by == OUTPUTS:
        labels = clusters(torch.cat([own.outputs.double() for own in routings], dim=1), count)
        dominants: dict[int, int] = {}
    else:
        products = torch.stack([own.products.double() for own in routings]).sum(0)
        labels, dominants = around_dominants(shares, products, count)
    members: dict[int, list[int]] = {}
    for expert, label in enumerate(labels):
        members.setdefault(label, []).append(expert)
    return tuple(
        Group(tuple(own), _normalised(shares[own]), dominants.get(label))
        for label, own in members.items()
    )


def _normalised(shares: Tensor) -> tuple[float, ...]:
    """Return numbers divided by their sum; equal ones where all are 0."""
    total = shares.sum()
    return tuple(
        (shares / total if total > 0 else torch.full_like(shares, 1 / len(shares))).tolist()
    )


def clusters(points: Tensor, count: int) -> list[int]:
    """Return the cluster of each point, by average linkage (HC-SMoE, section 3.2.2).

    Beginning with each point by itself, the two clusters with the least mean Euclidean distance
    between their points are joined until `count` are left.

    Args:
        points: (n, dimensions), in float64.
        count: from 1 to n.
    """
    n = len(points)
    labels = list(range(n))
    sizes = torch.ones(n, dtype=torch.float64)
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    distances.fill_diagonal_(torch.inf)
    for _ in range(n - count):
        first, second = sorted(divmod(int(distances.argmin()), n))
        size = sizes[first] + sizes[second]
        means = sizes[first] * distances[first] + sizes[second] * distances[second]
        distances[first] = distances[:, first] = means / size
        distances[second] = distances[:, second] = torch.inf
        distances[first, first] = torch.inf
        sizes[first] = size
        labels = [first if label == second else label for label in labels]
    return labels


def around_dominants(
    shares: Tensor, products: Tensor, count: int
) -> tuple[list[int], dict[int, int]]:
    """Return the group of each expert, and the dominant expert of each group (M-SMoE, section 3.2).

    The `count` experts that are chosen most are dominant. Each other one joins that whose router
    logits have the largest cosine with its own.

    Args:
        shares: of the router's choices, (n,).
        products: of router logits, summed over tokens, (n, n).
        count: from 1 to n.
    """
    dominants = shares.argsort(descending=True, stable=True)[:count].tolist()
    norms = products.diagonal().clamp(min=LEAST).sqrt()
    cosines = products / norms[:, None] / norms
    labels = [
        dominants.index(expert) if expert in dominants else int(cosines[expert, dominants].argmax())
        for expert in range(len(shares))
    ]
    return labels, dict(enumerate(dominants))


def unit_order(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
    """Return the order of an expert's hidden units that is nearest to another's (M-SMoE, section
    3.1, by weight matching): entry i is the unit that takes the place of unit i.

    Args:
        ours: matrices with a row per hidden unit, of the one that stays: (units, width) each.
        theirs: the same of the other.
    """
    with one_thread():  # the rounding of products depends on the number of threads
        similarity = sum(
            (own.float() @ other.float().T for own, other in zip(ours, theirs, strict=True)),
            start=torch.zeros(len(ours[0]), len(theirs[0])),
        )
    return assignment(similarity)
