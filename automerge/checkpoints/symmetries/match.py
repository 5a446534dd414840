"""Permutations and rotations that bring parts of one model nearest to those of another.

All of them follow from similarities S = A Bᵀ, the inner products of the base's entries (rows of A,
over everything that they are connected to) with the source's (rows of B). A permutation P and an
orthogonal R change no norm, so the nearest is the one with the largest inner product.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from automerge.machine.processors import one_thread

if TYPE_CHECKING:
    from torch import Tensor


def assignment(similarity: Tensor) -> Tensor:
    """Return the permutation p that maximises Σᵢ S[i, p(i)] (Ainsworth et al. 2023,
    arXiv:2209.04836, eq. 1 and sec. 3.2), (n,); the given order where none is better."""
    import torch
    from scipy.optimize import linear_sum_assignment

    rows = torch.arange(len(similarity))
    _, columns = linear_sum_assignment(similarity.double().numpy(), maximize=True)
    found = torch.from_numpy(columns)
    best, given = similarity[rows, found].double().sum(), similarity.diagonal().double().sum()
    return found if best > given else rows


def grouped_assignment(similarity: Tensor, per_group: int) -> tuple[Tensor, Tensor]:
    """Return the best permutation of heads that keeps groups of `per_group` together, and that of
    the groups: heads that share keys and values stay with them, in any order.

    Args:
        similarity: of the heads, (heads, heads); what groups have in common is part of it.
    """
    import torch

    n_groups = len(similarity) // per_group
    pairs = similarity.reshape(n_groups, per_group, n_groups, per_group).transpose(1, 2)
    within = torch.empty(n_groups, n_groups, per_group, dtype=torch.long)
    gain = torch.empty(n_groups, n_groups, dtype=torch.float64)
    rows = torch.arange(per_group)
    for ours in range(n_groups):
        for theirs in range(n_groups):
            own = pairs[ours, theirs]
            within[ours, theirs] = assignment(own)
            gain[ours, theirs] = own[rows, within[ours, theirs]].double().sum()
    groups = assignment(gain)
    chosen = within[torch.arange(n_groups), groups]
    return (groups[:, None] * per_group + chosen).flatten(), groups


def by_head(similarity: Tensor, size: int) -> Tensor:
    """Return the similarities of entries as blocks, (ours, theirs, size, size)."""
    ours, theirs = (length // size for length in similarity.shape)
    return similarity.reshape(ours, size, theirs, size).transpose(1, 2)


def traces(blocks: Tensor) -> Tensor:
    """Return the similarities of whole heads, entry by entry: the trace of each block."""
    return blocks.diagonal(dim1=-2, dim2=-1).sum(-1)


def orthogonal(similarity: Tensor) -> Tensor:
    """Return the orthogonal R that maximises ⟨A, R B⟩, with S = A Bᵀ (…, size, size).

    It is U Vᵀ of the singular value decomposition S = U Σ Vᵀ (Schönemann 1966,
    doi:10.1007/BF02289451); computed in float64 on one thread.
    """
    import torch

    with one_thread():
        left, _, right = torch.linalg.svd(similarity.double())
        rotation: Tensor = left @ right
    return rotation


def planar(similarity: Tensor) -> Tensor:
    """Return the rotations of pairs of entries (i, i + half) that maximise ⟨A, R B⟩, as matrices.

    These, and no others, commute with rotary position embedding in the half-against-half layout.
    For one pair, ⟨A, R(θ) B⟩ = cos θ (S₁₁ + S₂₂) + sin θ (S₂₁ − S₁₂).

    Args:
        similarity: A Bᵀ, (…, size, size), with an even size.
    """
    import torch

    wide = similarity.double()
    even, odd = _complex(wide)
    norm = torch.hypot(even, odd)
    cos = torch.where(norm > 0, even / norm.clamp_min(1e-300), torch.ones_like(even))
    sin = torch.where(norm > 0, odd / norm.clamp_min(1e-300), torch.zeros_like(odd))
    cos, sin = torch.diag_embed(cos), torch.diag_embed(sin)
    return torch.cat([torch.cat([cos, -sin], -1), torch.cat([sin, cos], -1)], -2)


def circuits(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return the inner products of heads' circuits, which no rotation within a head changes.

    ⟨O Vᴬ, O Vᴮ⟩ = Σᵢⱼ (Oᴬᵀ Oᴮ)ᵢⱼ (Vᴬ Vᴮᵀ)ᵢⱼ, and the same of queries and keys.

    Args:
        ours: blocks of the similarity of one side, (…, size, size).
        theirs: of the other.
    """
    products: Tensor = (ours * theirs).sum((-2, -1))
    return products


def planar_circuits(queries: Tensor, keys: Tensor) -> Tensor:
    """Return the same for queries and keys with rotary embedding: the sum over pairs (i, i + half)
    of Re(z_Q z̄_K), where z = S₁₁ + S₂₂ + i (S₂₁ − S₁₂) of each."""
    (even, odd), (other_even, other_odd) = _complex(queries), _complex(keys)
    products: Tensor = (even * other_even + odd * other_odd).sum(-1)
    return products


def _complex(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """Return S₁₁ + S₂₂ and S₂₁ − S₁₂ of each pair (i, i + half), (…, half)."""
    half = similarity.shape[-1] // 2
    first, second = similarity[..., :half, :half], similarity[..., half:, half:]
    lower, upper = similarity[..., half:, :half], similarity[..., :half, half:]
    even = first.diagonal(dim1=-2, dim2=-1) + second.diagonal(dim1=-2, dim2=-1)
    odd = lower.diagonal(dim1=-2, dim2=-1) - upper.diagonal(dim1=-2, dim2=-1)
    return even, odd
