"""Backends are tried in order, and it never matters for a result which of them computed it."""

from __future__ import annotations

import pytest
import torch

from automerge.checkpoints import MemoryCheckpoint
from automerge.merging.backends.base import TensorMerge, run_first
from automerge.merging.backends.build import compiler
from automerge.merging.backends.code import CompiledCode
from automerge.merging.backends.compiled import Compiled
from automerge.merging.backends.eager import Eager
from automerge.merging.backends.host import HOST
from automerge.merging.backends.low_rank import LowRank
from automerge.merging.plan import Planner
from automerge.merging.workspace import Workspace
from automerge.methods import METHODS
from automerge.testing.merges import NAME, count, recipe, tensors
from tests.merging.test_low_rank import Adapted
from tests.methods.dataless import DATALESS


def merge(method, dtype=torch.bfloat16, adapter=False):
    """A merge of the method, and a target for it."""
    inputs = tensors(count(method), (12, 9), dtype)
    names = ("base", *(f"m{i}" for i in range(count(method))))
    models = {n: MemoryCheckpoint({NAME: t}) for n, t in zip(names, inputs, strict=True)}
    if adapter:
        models["m0"] = Adapted(models["base"], torch.randn(12, 2), torch.randn(2, 9))
    code = CompiledCode(compiler()) if compiler() else None
    [step] = Planner(models).plan(recipe(method))
    workspace = Workspace(models, compiled=code)
    return TensorMerge(step, step.method, workspace), torch.full((108,), torch.nan, dtype=dtype)


@pytest.mark.sample(20)
@pytest.mark.parametrize("method", DATALESS.values(), ids=DATALESS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_whatever_backend_takes_a_merge_gives_the_bits_of_the_eager_one(method, dtype):
    made, expected = merge(method, dtype)
    assert Eager().run(expected, made) is True
    for backend in HOST:
        _, target = merge(method, dtype)
        if backend.run(target, made) is not None:
            assert torch.equal(target, expected)


@pytest.mark.skipif(not compiler(), reason="no C++ compiler")
def test_compiled_kernels_take_elementwise_merges_in_float32():
    def takes(name, dtype=torch.bfloat16):
        made, target = merge(METHODS[name], dtype)
        return Compiled().run(target, made) is not None

    assert takes("ties")
    assert takes("della", torch.float16)
    assert not takes("ties", torch.float64)
    assert not takes("tsv_m")


def test_updates_are_added_as_factors_only_by_methods_that_add_and_scale():
    for name, adapter, expected in [
        ("task_arithmetic", True, True),
        ("task_arithmetic", False, None),
        ("ties", True, None),
    ]:
        made, target = merge(METHODS[name], torch.float32, adapter)
        assert LowRank().run(target, made) is expected


def test_the_first_backend_that_can_merges_and_one_must():
    made, target = merge(METHODS["linear"])
    tried = []

    class Declines:
        def run(self, target, merge):
            tried.append(merge)

    assert run_first((Declines(), Eager(), Declines()), target, made)
    assert tried == [made]
    with pytest.raises(NotImplementedError, match="no backend merges"):
        run_first((Declines(),), target, made)
