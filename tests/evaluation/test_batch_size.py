"""Batches that memory decides on: their size, their answers, and what happens if it runs out."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from automerge.evaluation.loglikelihood.batch_size import (
    CPU_TOKENS,
    Fixed,
    Planned,
    activation_bytes,
    run_fitting,
)
from automerge.evaluation.loglikelihood.forward import (
    MIN_TOKENS,
    Path,
    find_path,
    log_likelihoods,
)
from automerge.evaluation.loglikelihood.packing import Request
from tests.evaluation.toys import make_model


def requests_of(lengths: list[int], vocabulary: int) -> list[Request]:
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randint(vocabulary, (n,), generator=draw).tolist() for n in lengths]
    return [Request(tuple(row), tuple(row[1:3])) for row in rows]


@pytest.fixture(scope="module")
def model():
    return make_model("llama", 0).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def requests(model) -> list[Request]:
    return requests_of([40 + n % 21 for n in range(150)], model.config.vocab_size)


def close(found, expected) -> None:
    """Equal but for the rounding of sums in another order, in single precision."""
    assert [a.logprob for a in found] == pytest.approx([a.logprob for a in expected], abs=1e-4)
    assert [a.greedy for a in found] == [a.greedy for a in expected]


@pytest.mark.parametrize("packed", [False, True])
def test_answers_are_those_of_one_request_at_a_time_even_if_memory_runs_out(
    model, requests, packed
) -> None:
    path = find_path(model, requests) if packed else Path()
    alone = [log_likelihoods(model, path, [request], 1)[0][0] for request in requests]
    batches, sizes = Planned(model, None), []

    def allocate(_, args, kwargs) -> None:
        sizes.append(kwargs["input_ids"].numel())
        if sizes[-1] > 1500:
            raise torch.OutOfMemoryError("out of memory")

    def run(size: int):
        return log_likelihoods(model, path, requests, size)

    close(run_fitting(batches, 60, run)[0], alone)
    assert batches.said == "up to 4096 tokens at once"
    with model.register_forward_pre_hook(allocate, with_kwargs=True):
        close(run_fitting(batches, 60, run)[0], alone)
        assert max(sizes) > 3000
        sizes.clear()
        run_fitting(batches, 60, run)
        assert 700 < max(sizes) <= 1500
        with pytest.raises(torch.OutOfMemoryError):
            run_fitting(Fixed(64), 60, run)
    assert batches.said == "up to 1024 tokens at once, halved where memory ran out"


def test_a_batch_that_cannot_shrink_fails() -> None:
    batches = Planned(make_model("llama", 0), None)
    assert batches.halve(3000)
    assert not batches.halve(3000)
    assert (batches.requests(3000), batches.requests(500)) == (1, 4)
    with pytest.raises(ValueError, match="else"):
        run_fitting(batches, 3000, lambda size: int("something else"))


def test_the_plan_is_a_power_of_two_that_fits_within_bounds(model) -> None:
    each = activation_bytes(model.config, model.dtype.itemsize)
    for tokens in (1, 1024, 1500, 2047, 2048, 3000, 10**6):
        planned = Planned(model, each * tokens).requests(1)
        assert planned in (1024, 2048, 4096)
        assert planned <= max(MIN_TOKENS, tokens)
        assert 2 * planned > min(tokens, CPU_TOKENS)


class _Peak(TorchDispatchMode):
    """The most bytes of tensors that operations made and somebody held at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage) -> None:
        place, size = storage.data_ptr(), storage.nbytes()
        if place in self._known:
            return
        self._known.add(place)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, place, size)

    def _gone(self, place: int, size: int) -> None:
        self._known.discard(place)
        self.now -= size


@pytest.mark.sample(3)
@pytest.mark.parametrize(("hidden", "inner"), [(64, 64), (64, 256), (96, 512)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_token_takes_about_as_much_as_is_planned_for_it(hidden, inner, dtype) -> None:
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config).to(dtype).eval().requires_grad_(False)
    n = 2048
    tokens = torch.zeros(n // 64, 64, dtype=torch.long)
    gc.collect()
    with torch.no_grad(), _Peak() as peak:
        model.model(input_ids=tokens, use_cache=False)
    taken = peak.most / n
    assert taken <= activation_bytes(config, dtype.itemsize) <= 3 * taken
