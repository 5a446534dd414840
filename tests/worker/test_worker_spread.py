"""A worker whose model lies on two devices measures what one on the CPU does."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations_with_replacement

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from automerge.errors import PreflightError
from automerge.evaluation.base import Entry
from automerge.evaluation.panel import Panel
from automerge.merging import Need, plan_memory, plan_spread, resident
from automerge.merging.backends.build import compiler
from automerge.merging.layers import find_layers
from automerge.merging.spread import divided, spread
from automerge.recipe import Recipe, Slice
from automerge.trial import Job, Measured, Steering
from automerge.worker import worker as module
from automerge.worker.worker import MergeWorker, worker_devices
from tests.evaluation.toys import make_model
from tests.pretend import DEVICE, Driver, pretended
from tests.worker.test_worker_device import ITEMS, jobs, source, spec
from tests.zoo import write_zoo

HOST = torch.device("cpu")
needs_compiler = pytest.mark.skipif(not compiler(), reason="no C++ compiler")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    write_zoo(folder)
    return folder


@pytest.fixture
def driver(monkeypatch, tmp_path):
    made = Driver(compiler(), tmp_path)
    monkeypatch.setattr(resident, "gpu_compiler", lambda device: made.load)
    monkeypatch.setattr(module, "choose_device", lambda device: device)
    monkeypatch.setattr(module, "free_device_bytes", lambda device: 10**9)
    monkeypatch.setattr(
        module, "worker_devices", lambda device, gpus: (device, "cpu") if gpus == 2 else (device,)
    )
    return made


def over(folder, gpus, **options):
    """A worker on the CPU, or spread over the pretended device and the CPU."""
    made = spec(folder, "cpu" if gpus == 1 else str(DEVICE), options.pop("properties", ()))
    tasks = (Entry("lm_eval", "choose", "choose", options={"num_fewshot": 0}),)
    kl = Entry("divergence", "kl_to_base", "kl_to_base", options={"tasks": tasks})
    panel = Panel((*made.panel.entries, kl), made.panel.settings)
    return replace(made, panel=panel, gpus=gpus, **options)


def work():
    """Merges by every backend; one with slopes; one with a layer twice."""
    items = {**ITEMS, "kl_to_base:choose": tuple(range(5))}
    sources = (source("left", 0.4), source("right", 0.6))
    slices = tuple(Slice({"left": span, "right": span}) for span in ((0, 2), (1, 2)))
    plain = [replace(job, items=items, part="test") for job in jobs()]
    sloped = replace(plain[1], steering=Steering())
    deep = Job(9, Recipe("linear", sources, slices=slices), "test", items)
    return [*plain, sloped, deep, plain[0]]


@needs_compiler
@pytest.mark.parametrize("first", [4, pytest.param(0, marks=pytest.mark.slow)])
def test_scores_weights_and_slopes_are_those_of_one_device(zoo, driver, monkeypatch, first):
    monkeypatch.chdir(zoo / "tasks")
    here = MergeWorker(over(zoo, 1, slopes=True))
    expected = [here.measure(job) for job in work()[first:]]
    with pretended():
        there = MergeWorker(over(zoo, 2, slopes=True))
        _, layers = find_layers(there._model, 2)
        places = [{p.device for p in layer.parameters()} for layer in layers]
        found = [there.measure(job) for job in work()[first:]]
    assert places == [{DEVICE}, {HOST}]
    assert there._model.device == DEVICE == there._model.get_output_embeddings().weight.device
    for ours, theirs in zip(expected, found, strict=True):
        assert isinstance(theirs, Measured), theirs
        for name in ("choose", "say"):
            assert theirs.scores[name] == ours.scores[name]
        nats = [m.scores["kl_to_base"].values for m in (theirs, ours)]
        assert nats[0] == pytest.approx(nats[1], rel=1e-5)
        assert (theirs.tokens, theirs.weights) == (ours.tokens, ours.weights)
        assert theirs.slopes.keys() == ours.slopes.keys()
        for name, slope in ours.slopes.items():
            # Sums of gradients in single precision, in another order.
            assert dict(theirs.slopes[name].by) == pytest.approx(dict(slope.by), rel=1e-3, abs=1e-6)
    assert found[4 - first].slopes["kl_to_base"].by
    assert driver.launches


def test_layers_leave_as_much_as_possible_free_on_every_device():
    assert divided([10] * 8, 20, [100, 100]) == (0, 0, 0, 1, 1, 1, 1, 1)
    assert divided([10, 10, 40], 0, [30, 50]) == (0, 0, 1)
    assert divided([10] * 6, 0, [100, 20, 100]) == (0, 0, 0, 2, 2, 2)
    assert divided([1, 1], 0, [5]) == (0, 0)


def test_layers_that_do_not_fit_have_no_devices():
    assert divided([10, 10], 5, [14, 10]) is None
    assert divided([10, 10], 5, [15, 10]) == (0, 1)
    assert divided([10, 10], 11, [10, 40]) is None


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.integers(0, 9),
    st.lists(st.integers(0, 25), min_size=1, max_size=3),
)
@settings(max_examples=200)
def test_no_other_way_in_order_leaves_more(layers, outer, free):
    def left(placement):
        used = [outer * (d == 0) for d in range(len(free))]
        for size, device in zip(layers, placement, strict=True):
            used[device] += size
        rooms = [room - own for room, own in zip(free, used, strict=True)]
        return min(rooms) if min(rooms) >= 0 else None

    ways = combinations_with_replacement(range(len(free)), len(layers))
    best = max((room for way in ways if (room := left(way)) is not None), default=None)
    found = divided(layers, outer, free)
    assert (None if found is None else left(found)) == best


def test_memory_is_planned_for_each_device():
    gb = 10**9
    need = Need(50 * gb, gb, 0, gb, 2 * gb, layers=(10 * gb,) * 4, more=5 * gb)
    plan = plan_spread(need, 100 * gb, [40 * gb, 40 * gb])
    assert plan.placement == (0, 0, 1, 1)
    first = plan_memory(replace(need, live=30 * gb, step=3 * gb), 100 * gb, 40 * gb)
    second = plan_memory(replace(need, live=25 * gb, step=3 * gb), 100 * gb, 40 * gb)
    assert plan.device_budget == first.device_budget < second.device_budget
    assert plan.graph == first.graph < second.graph
    assert plan.budget == first.budget
    with pytest.raises(PreflightError, match=r"needs 50 GB .* \(5.0 GB outside its 4 layers\)"):
        plan_spread(need, 100 * gb, [24 * gb, 24 * gb])


@pytest.mark.parametrize(
    ("said", "reason"),
    [("Expected all on one device", "Expected all on one device"), ("", "RuntimeError")],
)
def test_a_model_of_which_layers_expect_one_device_is_refused(said, reason):
    model = make_model("llama").requires_grad_(False)
    inner = model.model.layers[0].self_attn

    def forward(*args, **kwargs):
        raise RuntimeError(said)

    inner.forward = forward
    refusal = f"LlamaForCausalLM cannot be spread over 1 devices: {reason}; "
    with pytest.raises(PreflightError, match=refusal):
        spread(model, [HOST, HOST])


@pytest.mark.sample(3)
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "gpt_neox", "mamba", "bloom"])
def test_logits_of_a_spread_model_are_those_of_one_device(architecture):
    tokens = torch.arange(5, 29).reshape(2, 12)
    whole = make_model(architecture).requires_grad_(False)
    expected = whole(input_ids=tokens).logits
    for devices in ((DEVICE, HOST), (HOST, DEVICE)):
        with pretended():
            model = make_model(architecture).to(HOST).requires_grad_(False)
            spread(model, devices)
            found = model(input_ids=tokens.to(devices[0])).logits
            assert found.device == devices[0]
            assert torch.allclose(found.to(HOST), expected, atol=1e-5)


def test_a_worker_needs_as_many_gpus_as_it_is_to_have(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert worker_devices("cuda", 1) == ("cuda",)
    with pytest.raises(PreflightError, match=r"gpus_per_worker is 2, but torch sees 1 GPU$"):
        worker_devices("cuda", 2)
    with pytest.raises(PreflightError, match="torch sees 0 GPUs"):
        worker_devices("cpu", 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert worker_devices("cuda", 3) == ("cuda:0", "cuda:1", "cuda:2")
