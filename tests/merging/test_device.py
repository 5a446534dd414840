"""Merges on a GPU have the bits of those on the host.

There is none here: tensors are those of `tests.pretend`, and kernels' CUDA is compiled for the host
by C++, and for GPUs by NVRTC, which refuses what is wrong but cannot run it.
"""

from __future__ import annotations

import copy
import logging
import re

import pytest
import torch

from automerge.bench.agreement import agreement
from automerge.checkpoints import MemoryCheckpoint
from automerge.merging import InvalidMerge, ResidentEngine
from automerge.merging import resident as module
from automerge.merging.backends.build import CannotCompile, compiler
from automerge.merging.backends.cuda import machine_code
from automerge.methods import METHODS
from automerge.recipe import Profile, Recipe, RecipeSource
from automerge.testing.merges import count, recipe
from tests.checkpoints.models import llama, perturb
from tests.methods.dataless import DATALESS
from tests.pretend import DEVICE, Driver, pretended

FUSIBLE = [name for name, method in METHODS.items() if method.extent == "element"]
KINDS = [(name, torch.bfloat16) for name in FUSIBLE] + [
    (name, torch.float32) for name in ("linear", "slerp", "ties", "dare_ties", "della", "sce")
]
ROOM = 10**9
pytestmark = pytest.mark.skipif(not compiler(), reason="no C++ compiler")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cuda")


@pytest.fixture
def driver(monkeypatch, folder, caplog):
    """The device's; at the end nothing may have been refused, unless a test expects and clears."""
    made = Driver(compiler(), folder)
    monkeypatch.setattr(module, "gpu_compiler", lambda device: made.load)
    yield made
    assert not caplog.get_records("call")


def models(n_sources, dtype=torch.bfloat16):
    """A base and fine-tunes in memory, and a live model for each device."""
    torch.manual_seed(0)
    model = llama(num_hidden_layers=1).to(dtype)
    named = {}
    for seed, name in enumerate(["base", *(f"m{i}" for i in range(n_sources))]):
        perturb(model, seed)
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        named[name] = MemoryCheckpoint(state)
    here, there = (copy.deepcopy(model).requires_grad_(False) for _ in range(2))
    return named, here, there


def agree(named, here, there, made, engine=None):
    """Whether a recipe is merged alike on the device and on the host."""
    ResidentEngine(named).merge_into(here, made)
    with pretended():
        there.to(DEVICE)
        engine = engine or ResidentEngine(named, device_budget=ROOM)
        engine.merge_into(there, made)
        found = {name: tensor.own for name, tensor in there.state_dict().items()}
    return all(torch.equal(tensor, found[name]) for name, tensor in here.state_dict().items())


@pytest.mark.sample(4)
@pytest.mark.parametrize(("name", "dtype"), KINDS)
def test_a_method_gives_the_same_bits_on_the_device(driver, name, dtype):
    method = METHODS[name]
    assert agree(*models(count(method), dtype), recipe(method))
    assert driver.launches


@pytest.mark.slow
def test_the_self_test_compares_every_method(driver):
    with pretended():
        assert dict(agreement(str(DEVICE))) == dict.fromkeys(DATALESS, True)
    assert driver.launches


def test_half_precision_is_converted(driver):
    for name in ("ties", "dare_linear"):
        method = METHODS[name]
        assert agree(*models(count(method), torch.float16), recipe(method))
    assert driver.launches


def test_whole_tensor_methods_are_merged_on_the_host(driver):
    method = METHODS["tsv_m"]
    assert agree(*models(count(method)), recipe(method))
    assert not driver.launches


def test_a_model_kept_in_another_dtype_gets_the_stored_values(driver):
    named, here, there = models(3)
    assert agree(named, here.float(), there.float(), recipe(METHODS["ties"]))
    assert driver.launches


@pytest.mark.parametrize("room", [0, 9_000, 25_000])
def test_what_has_no_room_is_merged_on_the_host(driver, room):
    named, here, there = models(3)
    with pretended():
        engine = ResidentEngine(named, device_budget=room)
    assert agree(named, here, there, recipe(METHODS["della"]), engine)
    assert (driver.launches > 0) == (room > 0)
    with pretended():
        assert engine.leave_devices() == (room > 0)
        assert not engine.leave_devices()


def test_long_tensors_are_merged_in_pieces(driver, monkeypatch):
    monkeypatch.setattr("automerge.merging.backends.gpu.PIECE", 100)
    for name in ("dare_ties", "della"):
        method = METHODS[name]
        assert agree(*models(count(method)), recipe(method))


def test_parts_of_parameters_may_lie_anywhere(driver):
    """Two bytes beside a word, and transposed."""
    named, here, there = models(3, torch.bfloat16)
    with pretended():
        there.to(DEVICE)
        norm, up = there.model.norm.weight, there.model.layers[0].mlp.up_proj.weight
        norm.own = torch.zeros(norm.numel() + 1, dtype=torch.bfloat16)[1:]
        up.own = torch.zeros(up.shape[::-1], dtype=torch.bfloat16).T
        moved = {norm.data_ptr(), up.data_ptr()}
    assert agree(named, here, there, recipe(METHODS["ties"]))
    assert {norm.data_ptr(), up.data_ptr()} == moved


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_is_seen_and_can_be_left(driver, value):
    named, here, there = models(3)
    healthy = dict(named)
    named["m1"] = MemoryCheckpoint(
        {
            name: torch.full_like(named["m1"].read(name), value)
            if "norm" in name
            else named["m1"].read(name)
            for name in named["m1"].tensors
        }
    )
    first = next(name for name in named["m1"].tensors if "norm" in name)
    with pretended():
        there.to(DEVICE)
        engine = ResidentEngine(named, device_budget=ROOM)
        weight = {"weight": Profile.of(1.0)}
        left, broken, right = (RecipeSource(f"m{i}", weight) for i in range(3))
        engine.merge_into(there, Recipe("linear", (left, right)))
        with pytest.raises(InvalidMerge) as raised:
            engine.merge_into(there, Recipe("linear", (left, broken)))
        assert raised.value.tensor == first
    made = Recipe("linear", (right, left))
    assert agree(healthy, here, there, made, engine)


def test_a_kernel_that_errs_is_found_out(driver, monkeypatch, caplog):
    def load(source):
        return driver.load(source.replace("const float merged = ", "const float merged = 1e-3f + "))

    monkeypatch.setattr(module, "gpu_compiler", lambda device: load)
    with caplog.at_level(logging.WARNING):
        assert agree(*models(3), recipe(METHODS["ties"]))
    assert "elements of 'model.embed_tokens.weight' differ from the host's" in caplog.text
    assert driver.launches == 1
    caplog.clear()


def test_without_a_compiler_the_host_merges(driver, monkeypatch, caplog):
    def load(source):
        raise CannotCompile("no NVRTC")

    monkeypatch.setattr(module, "gpu_compiler", lambda device: load)
    with caplog.at_level(logging.WARNING):
        assert agree(*models(3), recipe(METHODS["ties"]))
    assert "on the host instead of on the GPU, which is slower: no NVRTC" in caplog.text
    caplog.clear()


@pytest.fixture(scope="module")
def nvrtc():
    pytest.importorskip("cuda.bindings")
    try:
        machine_code('extern "C" __global__ void merge() {}', "sm_90")
    except CannotCompile as error:
        pytest.skip(str(error))


@pytest.mark.sample(4)
@pytest.mark.parametrize(("name", "dtype"), KINDS)
def test_kernels_compile_for_gpus_and_nothing_is_contracted(nvrtc, driver, name, dtype):
    method = METHODS[name]
    named, _, there = models(count(method), dtype)
    with pretended():
        there.to(DEVICE)
        ResidentEngine(named, device_budget=ROOM).merge_into(there, recipe(method))
    assert driver.sources
    for source in driver.sources:
        machine_code(source, "sm_90")
        code = machine_code(source, "compute_80").decode()
        assert "st.global" in code
        assert not {"fma.", ".ftz", ".approx"} & set(re.findall(r"fma\.|\.ftz|\.approx", code))


def test_a_kernel_with_a_mistake_is_refused_with_its_place(nvrtc):
    with pytest.raises(CannotCompile, match=r"merge.cu\(1\): error"):
        machine_code("mistake", "sm_90")


@pytest.mark.gpu
def test_methods_give_the_same_bits_on_a_real_gpu():
    assert dict(agreement("cuda")) == dict.fromkeys(DATALESS, True)
