"""Compiled kernels have the bits of the eager ones."""

from __future__ import annotations

import pytest
import torch

from automerge.checkpoints import MemoryCheckpoint
from automerge.merging import InvalidMerge
from automerge.merging import resident as module
from automerge.merging.fused import WORTHWHILE, FusedKernels, compiler, fused_kernels
from automerge.merging.resident import ResidentEngine
from automerge.methods import METHODS
from tests.methods.test_conformance import NAME, count, recipe, tensors

FUSIBLE = [name for name, method in METHODS.items() if method.extent == "element"]
EVERY = [
    name if name == "linear" else pytest.param(name, marks=pytest.mark.slow) for name in FUSIBLE
]

pytestmark = pytest.mark.skipif(not compiler(), reason="no C++ compiler")


def engines(monkeypatch, inputs):
    named = {"base": inputs[0]} | {f"m{i}": s for i, s in enumerate(inputs[1:])}
    checkpoints = {n: MemoryCheckpoint({NAME: t}) for n, t in named.items()}
    plain = ResidentEngine(checkpoints)
    monkeypatch.setattr(module, "fused_kernels", lambda _: FusedKernels())
    return plain, ResidentEngine(checkpoints)


@pytest.mark.parametrize("name", EVERY)
def test_fused_equals_eager_bit_for_bit(monkeypatch, name):
    method = METHODS[name]
    plain, fused = engines(monkeypatch, tensors(count(method), (307, 211), torch.bfloat16))
    for switch in (True, False):
        made = recipe(method, switch)
        [(_, ours)], [(_, theirs)] = fused.merge(made), plain.merge(made)
        assert torch.equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ties", "dare_ties", "della", "sce"])
def test_fused_equals_eager_for_other_dtypes_and_sizes(monkeypatch, name):
    method = METHODS[name]
    for dtype, shape in ((torch.float32, (64,)), (torch.float16, (33, 20)), (torch.float32, ())):
        plain, fused = engines(monkeypatch, tensors(count(method), shape, dtype))
        made = recipe(method)
        [(_, ours)], [(_, theirs)] = fused.merge(made), plain.merge(made)
        assert torch.equal(ours, theirs)


@pytest.mark.slow
def test_fused_kernels_see_what_is_not_finite(monkeypatch):
    inputs = tensors(3)
    inputs[2][3, 1] = torch.nan
    _, fused = engines(monkeypatch, inputs)
    with pytest.raises(InvalidMerge):
        list(fused.merge(recipe(METHODS["ties"])))


def test_only_large_models_are_compiled_for():
    small = MemoryCheckpoint({NAME: torch.empty(10)})
    large = MemoryCheckpoint({NAME: torch.empty(WORTHWHILE, dtype=torch.int8, device="meta")})
    assert fused_kernels({"a": small}) is None
    assert fused_kernels({"a": small, "b": large}) is not None
