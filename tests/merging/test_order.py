"""Order statistics: exact when sorted, near enough when binned."""

from __future__ import annotations

import math

import pytest
import torch

from automerge.merging import order as module
from automerge.merging.order import Binned, Signed, Sorted, order, orders

N = 200_000


def numbers(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randn(N, generator=generator) * 0.01
    if kind == "bfloat16":
        drawn = drawn.bfloat16().float()
    if kind == "half zero":
        drawn[::2] = 0
    return drawn.abs()


def blocks(values: torch.Tensor, *others: torch.Tensor):
    for start in range(0, N, 65_536):
        yield tuple(t[start : start + 65_536] for t in (values, *others))


@pytest.fixture
def binned(monkeypatch):
    monkeypatch.setattr(module, "EXACT", 1000)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "half zero"])
def test_binned_thresholds_keep_the_share_asked_for(binned, kind):
    values = numbers(kind)
    found = order(blocks(values), N)
    assert isinstance(found, Binned)
    ordered = values.sort(descending=True).values
    for share in (0.001, 0.05, 0.2, 0.45):
        k = int(share * N)
        # bfloat16 numbers have ties, so the exact threshold keeps more than k itself.
        kept = int((values >= found.value(k)).sum())
        tied = int((values == ordered[k - 1]).sum())
        assert abs(kept - k) <= 0.002 * N + tied
        assert found.value(k) == pytest.approx(ordered[k - 1].item(), rel=0.004)


def test_binned_sums_are_those_of_the_largest(binned):
    values, other = numbers("float32"), torch.rand(N, generator=torch.Generator().manual_seed(2))
    found = order(blocks(values, other), N)
    for k in (100, 10_000, N):
        exact = other[values.argsort(descending=True)[:k]].double().sum().item()
        assert found.total(0, k) == pytest.approx(exact, rel=0.01)
    assert found.total(0, N) == pytest.approx(other.double().sum().item(), rel=1e-12)


@pytest.mark.parametrize("kind", ["float32", "half zero"])
def test_small_tensors_are_exact_and_positive_numbers_counted_either_way(monkeypatch, kind):
    values = numbers(kind)
    exact = order(blocks(values, values), N)
    assert isinstance(exact, Sorted)
    ordered = values.sort(descending=True).values
    assert [exact.value(k) for k in (1, 77, N)] == [ordered[k - 1].item() for k in (1, 77, N)]
    assert exact.total(0, 50) == pytest.approx(math.fsum(ordered[:50].tolist()))
    monkeypatch.setattr(module, "EXACT", 1000)
    assert order(blocks(values), N).n_positive == exact.n_positive == int((values > 0).sum())


@pytest.mark.parametrize("exact", [True, False])
def test_numbers_of_both_signs_are_ordered_by_their_parts(exact, monkeypatch):
    if not exact:
        monkeypatch.setattr(module, "EXACT", 1000)
    values = numbers("half zero") * torch.where(torch.arange(N) % 3 == 0, -1.0, 1.0)
    pieces = [[v.relu().abs(), (-v).relu().abs()] for v in values.split(7777)]
    above, below = orders(pieces, N, 2)
    found, ordered = Signed(above, below, N), values.sort(descending=True).values
    for k in (1, 10, N // 5, N // 2, N - N // 10, N):
        assert found.value(k) == pytest.approx(ordered[k - 1].item(), rel=0 if exact else 0.004)
