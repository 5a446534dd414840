"""Merged weights do not depend on how many threads a process has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from automerge.checkpoints import MemoryCheckpoint
from automerge.checkpoints.low_rank import LowRank
from automerge.machine.processors import one_thread
from automerge.merging import ResidentEngine
from automerge.merging.plan import Planner
from automerge.merging.streaming import stream
from automerge.merging.workspace import Workspace
from automerge.testing.merges import NAME, count, recipe, tensors
from tests.methods.dataless import DATALESS

SHAPES = {"tensor": [(384, 320), (3, 96, 130)], "element": [(70_001,)]}
"""By extent, large enough that PyTorch and LAPACK share the work out."""
CASES = [(method, shape) for method in DATALESS.values() for shape in SHAPES[method.extent]]


@contextmanager
def threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.sample(6)
@pytest.mark.parametrize(("method", "shape"), CASES, ids=[f"{m.name}-{s}" for m, s in CASES])
def test_exported_weights_are_those_that_were_scored_whatever_the_threads(method, shape):
    """Scored by a worker of one thread, exported by a process of two, and the other way round."""
    names = ("base", *(f"m{i}" for i in range(count(method))))
    inputs = dict(zip(names, tensors(count(method), shape, torch.bfloat16), strict=True))
    models = {name: MemoryCheckpoint({NAME: tensor}) for name, tensor in inputs.items()}
    made = recipe(method, dtype="float32")
    steps = Planner(models).plan(made)
    found = []
    for scoring, exporting in ((1, 2), (2, 1)):
        with threads(scoring):
            [(_, scored)] = ResidentEngine(models).merge(made)
        with threads(exporting):
            [(_, exported)] = stream(steps, Workspace(models), None)
        assert torch.equal(scored, exported)
        found.append(scored)
    assert torch.equal(*found)


def test_adapters_are_multiplied_out_alike_by_any_number_of_threads():
    base, left, right = tensors(2, (640, 64), torch.float32)
    update = LowRank(base @ right.T, left, right.T.contiguous(), 0.3)
    wholes = []
    for n in (1, 2, 3):
        with threads(n):
            wholes.append(update.whole())
    assert torch.equal(wholes[0], wholes[1])
    assert torch.equal(wholes[0], wholes[2])


def test_as_many_threads_as_before_are_left_behind():
    with threads(2):
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with pytest.raises(ValueError, match="x"), one_thread():
            raise ValueError("x")
        assert torch.get_num_threads() == 2
