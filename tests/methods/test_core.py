"""Spectral methods on sources of low rank, and SVDs through Gram matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from automerge.methods import METHODS
from automerge.methods.base import Operands
from automerge.methods.shared import core, matrices
from automerge.methods.shared.core import prepare
from automerge.methods.shared.matrices import svd
from tests.methods.test_literature import merge, normal, singular_values

METHOD = pytest.mark.parametrize("method", ["iso_c", "iso_cts", "opcm"])
WEIGHTS = [{"weight": 0.7}, {"weight": 0.4}, {"weight": 0.9}]
SHAPES = [(48, 80), (90, 40), (3, 48, 80)]


def orthonormal(*shape: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(normal(*shape, seed=seed)).Q


def adapter(shape: tuple[int, ...], seed: int, rank: int = 2, size: float = 1.0) -> torch.Tensor:
    """A matrix of low rank whose singular values are well apart."""
    *stack, rows, columns = shape
    u = orthonormal(*stack, rows, rank, seed=seed)
    v = orthonormal(*stack, columns, rank, seed=seed + 50)
    values = size * torch.arange(2, 2 + rank).flip(0).double() / rank
    return u * values @ v.mT


@METHOD
@pytest.mark.parametrize("shape", SHAPES)
def test_coordinates_give_what_whole_matrices_give(method, shape, monkeypatch):
    """In float64, where what is left out is nothing but FLOOR of the largest value."""
    base = 0.01 * normal(*shape)
    sources = [base + adapter(shape, seed) for seed in (1, 2, 3)]
    found = prepare(Operands(base, sources))
    assert found[0].shape[-1] == found[1].shape[-2] == 6
    reduced = merge(method, base, *sources, each=WEIGHTS)
    monkeypatch.setattr(core, "SHARE", 10**6)
    assert not prepare(Operands(base, sources))
    torch.testing.assert_close(
        reduced, merge(method, base, *sources, each=WEIGHTS), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_what_rounds_to_half_precision_is_not_raised_to_a_direction(shape):
    """iso_c of adapters on a bfloat16 base is that of the adapters, not of rounding errors."""
    base = normal(*shape).bfloat16()
    vectors = [adapter(shape, seed, size=30.0) for seed in (1, 2, 3)]
    sources = [(base.double() + v).bfloat16() for v in vectors]
    total = sum(w["weight"] * v for w, v in zip(WEIGHTS, vectors, strict=True))
    u, s, vt = torch.linalg.svd(total, full_matrices=False)
    expected = s.mean(-1)[..., None, None] * s.shape[-1] / 6 * (u[..., :6] @ vt[..., :6, :])
    changed = merge("iso_c", base, *sources, each=WEIGHTS).double() - base.double()
    # Half a unit in the last place of sources and result, in every direction: √m + √n of it.
    error = 2**-9 * (base.double().abs() + expected.abs()).square().mean().sqrt()
    spread = shape[-2] ** 0.5 + shape[-1] ** 0.5
    assert singular_values(changed)[..., 6].max() < 4 * error * spread
    kept = (expected * changed).sum() / expected.square().sum()
    assert 0.9 < kept < 1.1


@METHOD
def test_a_source_of_weight_zero_does_not_matter_though_its_rank_is_high(method):
    base = 0.01 * normal(48, 80)
    sources = [base + adapter((48, 80), 1), base + adapter((48, 80), 2)]
    weights = [{"weight": 0.7}, {"weight": 0.4}, {"weight": 0.0}]
    merged = [
        merge(method, base, *sources, base + third, each=weights)
        for third in (adapter((48, 80), 3), normal(48, 80, seed=9), torch.zeros(48, 80).double())
    ]
    for other in merged[1:]:
        torch.testing.assert_close(other, merged[0], rtol=0, atol=1e-6)


def test_sources_of_high_rank_have_no_coordinates():
    base = normal(48, 80)
    low, high = base + adapter((48, 80), 1), base + normal(48, 80, seed=2)
    assert not prepare(Operands(base, [high, high]))
    assert not prepare(Operands(base, [base, base]))
    *_, first, second = prepare(Operands(base, [low, high]))
    assert first.numel()
    assert not second.numel()
    assert not prepare(Operands(base, [low * float("nan")] * 2))
    assert not prepare(Operands(normal(5), [normal(5)]))


@METHOD
def test_memory_is_planned_for_as_much_as_coordinates_may_take(method):
    shape = (48, 80)
    base = normal(*shape)
    real = prepare(Operands(base, [base + adapter(shape, seed, 4) for seed in (1, 2, 3)]))
    meta = torch.empty(shape, dtype=torch.float64, device="meta")
    planned = METHODS[method].prepare(Operands(meta, [meta] * 3))
    assert sum(t.numel() for t in planned) >= sum(t.numel() for t in real) > 0


@pytest.mark.parametrize("shape", [(20, 60), (60, 20), (2, 20, 60), (5, 10)])
def test_an_svd_of_a_long_matrix_is_numpys(shape, monkeypatch):
    matrix = normal(*shape).float()
    u, values, vt = svd(matrix)
    expected = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    near = {"rtol": 0, "atol": 4e-7 * float(values.max())}
    torch.testing.assert_close(values.double(), torch.from_numpy(expected), **near)
    torch.testing.assert_close(matrices.assemble(u, values, vt), matrix, **near)
    identity = torch.eye(min(shape[-2:])).expand(*shape[:-2], -1, -1)
    torch.testing.assert_close(u.mT @ u, identity, rtol=0, atol=1e-6)
    torch.testing.assert_close(vt @ vt.mT, identity, rtol=0, atol=1e-6)
    monkeypatch.setattr(torch.linalg, "svd", None)  # it was not needed
    svd(matrix)


def test_an_svd_that_is_differentiated_is_torchs():
    matrix = normal(10, 30).float().requires_grad_()
    u, _, vt = svd(matrix)
    (u[:, 0] @ matrix @ vt[0]).backward()
    first = torch.outer(u[:, 0], vt[0]).detach()
    torch.testing.assert_close(matrix.grad, first, rtol=0, atol=1e-5)
