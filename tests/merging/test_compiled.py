"""Compiled kernels have the bits of the eager ones."""

from __future__ import annotations

import dataclasses
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from automerge.checkpoints import MemoryCheckpoint
from automerge.merging import InvalidMerge
from automerge.merging import order as orders
from automerge.merging import resident as module
from automerge.merging.backends.build import compiler
from automerge.merging.backends.code import WORTHWHILE, CompiledCode, compiled_code
from automerge.merging.backends.loops import Signature
from automerge.merging.backends.translate import translate
from automerge.merging.blocks import spans
from automerge.merging.ranks import NARROW, Ranks, ranks_of
from automerge.merging.resident import ResidentEngine
from automerge.methods import METHODS
from automerge.recipe import Profile, Recipe, RecipeSource
from automerge.testing.merges import NAME, count, recipe, tensors

FUSIBLE = [name for name, method in METHODS.items() if method.extent == "element"]
pytestmark = pytest.mark.skipif(not compiler(), reason="no C++ compiler")


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def code() -> CompiledCode:
    return CompiledCode(compiler())


def engines(monkeypatch, inputs):
    named = {"base": inputs[0]} | {f"m{i}": s for i, s in enumerate(inputs[1:])}
    checkpoints = {n: MemoryCheckpoint({NAME: t}) for n, t in named.items()}
    plain = ResidentEngine(checkpoints)
    monkeypatch.setattr(module, "compiled_code", lambda _: code())
    return plain, ResidentEngine(checkpoints)


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", FUSIBLE)
def test_compiled_equals_eager_bit_for_bit(monkeypatch, name):
    method = METHODS[name]
    plain, quick = engines(monkeypatch, tensors(count(method), (307, 211), torch.bfloat16))
    for switch in (True, False):
        made = recipe(method, switch)
        [(_, ours)], [(_, theirs)] = quick.merge(made), plain.merge(made)
        assert torch.equal(ours, theirs)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["ties", "dare_ties", "della", "sce"])
def test_compiled_equals_eager_for_other_dtypes_and_sizes(monkeypatch, name):
    method = METHODS[name]
    kinds = (torch.float32, torch.bfloat16, torch.float16)
    shapes = ((64,), (33, 20), (33, 1), (7, 5), ())
    for dtype, shape in product(kinds, shapes):
        plain, quick = engines(monkeypatch, tensors(count(method), shape, dtype))
        made = recipe(method)
        [(_, ours)], [(_, theirs)] = quick.merge(made), plain.merge(made)
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_kernels_see_what_is_not_finite(monkeypatch, dtype):
    inputs = tensors(3, dtype=dtype)
    inputs[2][3, 1] = torch.nan
    _, quick = engines(monkeypatch, inputs)
    with pytest.raises(InvalidMerge):
        list(quick.merge(recipe(METHODS["ties"])))


def test_only_large_models_are_compiled_for():
    small = MemoryCheckpoint({NAME: torch.empty(10)})
    large = MemoryCheckpoint({NAME: torch.empty(WORTHWHILE, dtype=torch.int8, device="meta")})
    assert compiled_code({"a": small}) is None
    assert compiled_code({"a": small, "b": large}) is not None


def test_pieces_of_a_tensor_are_merged_by_threads_as_one(monkeypatch):
    monkeypatch.setattr("automerge.merging.backends.compiled.PIECE", 1000)
    monkeypatch.setattr("automerge.merging.backends.compiled.SHARED", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    method = METHODS["dare_ties"]
    plain, quick = engines(monkeypatch, tensors(count(method), (307, 211), torch.bfloat16))
    [(_, ours)], [(_, theirs)] = quick.merge(recipe(method)), plain.merge(recipe(method))
    assert torch.equal(ours, theirs)


@given(st.integers(0, 10**8), st.integers(1, 64), st.integers(1 << 12, 10**8))
def test_pieces_cover_a_tensor_once(n, n_threads, longest):
    pieces = spans(n, n_threads, longest)
    edges = [0, *(stop for _, stop in pieces)]
    assert [start for start, _ in pieces] == edges[:-1]
    assert edges[-1] == n
    assert all(0 < stop - start <= longest + 1 for start, stop in pieces)
    assert all(start % 2 == 0 for start, _ in pieces)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_what_is_rounded_to_infinity_is_seen(monkeypatch, dtype):
    most = torch.finfo(dtype).max
    linear = METHODS["linear"]
    for factor, finite in ((1.0, True), (1.001, dtype is torch.bfloat16), (1.01, False)):
        # 1.001 of the largest bfloat16 is rounded back to it.
        weights = (factor, 0.0)
        inputs = [torch.full((40,), most, dtype=dtype) for _ in weights]
        _, quick = engines(monkeypatch, [inputs[0], *inputs])
        sources = tuple(
            RecipeSource(f"m{i}", {"weight": Profile.of(w)}) for i, w in enumerate(weights)
        )
        made = Recipe(linear.name, sources, knobs={"normalize": False})
        if finite:
            assert len(list(quick.merge(made))) == 1
        else:
            with pytest.raises(InvalidMerge):
                list(quick.merge(made))


def test_a_compiler_that_fails_costs_speed_and_no_result(monkeypatch, caplog):
    method = METHODS["ties"]
    inputs = tensors(count(method), (30, 20), torch.bfloat16)
    plain, _ = engines(monkeypatch, inputs)
    named = {"base": inputs[0]} | {f"m{i}": s for i, s in enumerate(inputs[1:])}
    monkeypatch.setattr(module, "compiled_code", lambda _: CompiledCode("false"))
    broken = ResidentEngine({n: MemoryCheckpoint({NAME: t}) for n, t in named.items()})
    made = recipe(method)
    [(_, ours)], [(_, theirs)] = broken.merge(made), plain.merge(made)
    assert torch.equal(ours, theirs)
    assert "without compiled kernels" in caplog.text


def test_compiled_kernels_are_kept_between_runs(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    method = METHODS["slerp"]
    for _ in range(2):
        _, quick = engines(monkeypatch, tensors(count(method)))
        list(quick.merge(recipe(method)))
    assert len(list(tmp_path.rglob("*.so"))) == 1
    monkeypatch.setattr("automerge.merging.backends.build.compiled", None)
    _, again = engines(monkeypatch, tensors(count(method)))
    list(again.merge(recipe(method)))


def test_a_kernel_that_uses_what_cannot_be_translated_is_named():
    odd = dataclasses.replace(
        METHODS["linear"], kernel=lambda operands, _: operands.sources[0].sin()
    )
    signature = Signature(False, False, False, (1,), 0, (), (torch.float32,), torch.float32)
    with pytest.raises(NotImplementedError, match="cannot use sin"):
        translate(odd, signature)


@pytest.mark.sample(4)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("anchored", "n_threads"), [(True, 1), (False, 1), (True, 3)])
def test_magnitudes_are_counted_as_without_a_compiler(monkeypatch, dtype, anchored, n_threads):
    monkeypatch.setattr("automerge.merging.backends.code.COUNTED", 1000)
    base, source = tensors(1, (2471,), dtype)
    source[:40], source[40:50] = base[:40], 1e4
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    counts = code().magnitude_counts(source, base if anchored else None)
    magnitudes = (source.float() - base.float() if anchored else source.float()).abs()
    monkeypatch.setattr(orders, "EXACT", 0)
    expected = orders.order([(magnitudes,)], len(source))
    assert torch.equal(counts.cumsum(0), expected.counts)
    assert code().magnitude_counts(source.double(), base.double()) is None
    assert torch.equal(code().magnitudes(source, base if anchored else None), magnitudes)
    assert code().magnitudes(source.double(), base.double()) is None


@pytest.mark.parametrize("anchored", [True, False])
def test_variances_are_counted_as_without_a_compiler(monkeypatch, anchored):
    monkeypatch.setattr("automerge.merging.backends.native.PIECE", 1000)
    base, *sources = tensors(3, (2471,), torch.float32)
    for source in sources:
        source[:40] = base[:40]
    found, sums, zeros = code().spread_counts(sources, base if anchored else None)
    vectors = [s.float() - base.float() if anchored else s.float() for s in sources]
    variance = torch.stack(vectors).double().var(dim=0, correction=0)
    assert zeros == int((variance == 0).sum()) >= 40
    assert found.sum() == len(base)
    squares = torch.stack([v.double().square().sum() for v in vectors])
    torch.testing.assert_close(sums.sum(0), squares)
    monkeypatch.setattr(orders, "EXACT", 0)
    expected = orders.order([(variance.float(), *(v.square() for v in vectors))], len(base))
    ours = orders.Binned(found.cumsum(0), tuple(sums.cumsum(0).unbind(1)), zeros)
    for k in (1, 30, 500, 2000):
        assert ours.value(k) == pytest.approx(expected.value(k), rel=0.005)
        for i in range(3):
            assert ours.total(i, k) == pytest.approx(expected.total(i, k), rel=0.005)


@pytest.mark.parametrize("shape", [(3, 1), (40, 7), (5, 3000), (2, NARROW)])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_ranks_are_those_of_a_stable_sort(monkeypatch, shape, n_threads):
    monkeypatch.setattr("automerge.merging.backends.native.PIECE", 100)
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    rows = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 4).round() / 7
    order = rows.abs().argsort(dim=1, stable=True)
    expected = order.argsort(dim=1)
    assert torch.equal(code().row_ranks(rows).long(), expected)
    assert torch.equal(ranks_of(rows).long(), expected)


def test_rows_of_more_columns_than_16_bits_count_are_placed_too():
    rows = torch.randn((1, NARROW + 1), generator=torch.Generator().manual_seed(0))
    assert code().row_ranks(rows) is None
    order = rows.abs().argsort(dim=1, stable=True)
    assert torch.equal(ranks_of(rows).long(), order.argsort(dim=1))


def test_ranks_go_evenly_from_0_to_1():
    rows = torch.tensor([[0.3, -0.1, 0.0, 5.0, -0.3]])
    ranks = Ranks(ranks_of(rows).reshape(-1), 5)
    assert ranks.cut(0, 5).tolist() == [0.5, 0.25, 0.0, 1.0, 0.75]
    assert ranks.cut(3, 5).tolist() == [1.0, 0.75]
    assert Ranks(ranks_of(rows.T).reshape(-1), 1).cut(0, 5).tolist() == [0.5] * 5


@pytest.mark.sample(4)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("count", "n_threads"), [(1, 1), (3, 1), (3, 3)])
def test_products_are_those_of_double_precision(monkeypatch, dtype, count, n_threads):
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    # Pieces of many runs, of one, and of less than the lanes of one.
    for size in (100_007, 2471, 11):
        monkeypatch.setattr("automerge.merging.backends.native.PIECE", 1000 + size // 2)
        base, *xs = tensors(count, (size,), dtype)
        gradient = torch.randn(size, generator=torch.Generator().manual_seed(1))
        found = code().products(gradient, xs, base)
        for one, x in zip(found, xs, strict=True):
            terms = gradient.double() * (x.double() - base.double())
            assert abs(one - terms.sum().item()) <= 1e-6 * terms.abs().sum().item()
    assert code().products(gradient.double(), xs, base) is None
