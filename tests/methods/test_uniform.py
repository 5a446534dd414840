"""Uniforms behind random masks."""

from __future__ import annotations

import hashlib

import pytest
import torch

from automerge.methods.shared.uniform import uniform


def naive(seed: int, tensor: str, source: str, element: int) -> float:
    digest = hashlib.sha256(f"{seed}\0{tensor}\0{source}".encode()).digest()
    x = element % 2**32 // 2 ^ int.from_bytes(digest[:4], "little")
    x ^= x >> 16
    x = x * 0x21F0AAAD % 2**32
    x ^= int.from_bytes(digest[4:8], "little")
    x ^= x >> 15
    x = x * 0xD35A2D97 % 2**32
    x ^= x >> 15
    if element % 2:
        x = (x & 0xFFFF) << 16 | x >> 16
    return (x >> 8) / 2**24


@pytest.mark.parametrize("start", [0, 12_345, 2**32 - 3])
def test_uniforms_are_the_hash_in_exact_integers(start):
    expected = [naive(3, "w", "s", i) for i in range(start, start + 6)]
    assert uniform(3, "w", "s", start, 6).tolist() == expected


def test_uniforms_do_not_depend_on_the_cut_into_blocks():
    whole = uniform(1, "w", "s", 0, 1000)
    pieces = torch.cat([uniform(1, "w", "s", a, b - a) for a, b in ((0, 1), (1, 700), (700, 1000))])
    assert torch.equal(whole, pieces)


@pytest.mark.parametrize("density", [0.01, 0.3, 0.9])
def test_a_mask_keeps_its_density_and_masks_are_nested(density):
    n = 1_000_000
    u = uniform(0, "model.layers.3.mlp.up_proj.weight", "math", 0, n)
    assert u.min() >= 0
    assert u.max() < 1
    deviation = (density * (1 - density) / n) ** 0.5
    assert abs((u < density).double().mean().item() - density) < 4 * deviation
    assert not ((u < density / 2) & ~(u < density)).any()


def test_uniforms_of_neighbours_sources_tensors_and_seeds_are_uncorrelated():
    n = 200_000
    u = uniform(0, "a", "x", 0, n).double() - 0.5
    others = [
        uniform(*key, 0, n).double() - 0.5 for key in ((1, "a", "x"), (0, "b", "x"), (0, "a", "y"))
    ]
    others += [torch.roll(u, shift) for shift in (1, 2, 64, 4096)]
    for other in others:
        assert abs(torch.dot(u, other).item() / n * 12) < 4 / n**0.5


def test_histogram_of_uniforms_is_flat():
    n, bins = 1 << 20, 256
    u = uniform(7, "w", "s", 0, n)
    counts = torch.histc(u, bins, 0, 1).double()
    expected = n / bins
    chi2 = ((counts - expected) ** 2 / expected).sum().item()
    assert abs(chi2 - (bins - 1)) < 5 * (2 * (bins - 1)) ** 0.5


def test_neighbours_that_share_a_hash_are_independent():
    n, bins = 1 << 20, 16
    u = uniform(11, "w", "s", 0, 2 * n).double().reshape(n, 2)
    cells = (u * bins).long() @ torch.tensor([bins, 1])
    expected = n / bins**2
    chi2 = ((torch.bincount(cells, minlength=bins**2) - expected) ** 2 / expected).sum().item()
    assert abs(chi2 - (bins**2 - 1)) < 5 * (2 * (bins**2 - 1)) ** 0.5
