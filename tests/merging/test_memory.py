"""What merging needs is known before it starts, and bounded while it runs."""

from __future__ import annotations

import dataclasses
import gc
import re
import weakref
from types import SimpleNamespace

import pytest
import torch
import transformers as hf
from torch.utils._python_dispatch import TorchDispatchMode

from automerge.checkpoints import MemoryCheckpoint, TensorInfo, open_checkpoint
from automerge.errors import PreflightError
from automerge.evidence.activations import gather_activations
from automerge.evidence.gather import linear_layers
from automerge.merging import (
    Need,
    ResidentEngine,
    estimate,
    free_host_bytes,
    plan_memory,
    plan_spread,
)
from automerge.merging.cache import Cache, n_bytes
from automerge.merging.calibration import repair
from automerge.merging.memory import DEVICE_SHARE, SHARE, token_bytes
from automerge.merging.order import EXACT
from automerge.merging.plan import Planner
from automerge.merging.tensor import merge_tensor
from automerge.merging.workspace import Workspace
from automerge.methods import METHODS
from automerge.methods.shared import core
from automerge.recipe import Profile
from tests.checkpoints.models import save
from tests.merging.test_architectures import CONFIGS
from tests.merging.test_merging import load, recipe
from tests.methods.dataless import DATALESS

ALL = pytest.mark.parametrize("method", DATALESS)
GB = 10**9
NAMES = ("base", "maths", "code", "chat")
ROOM = 1 << 40


def models(shapes=((24, 16), (16,)), dtype=torch.bfloat16):
    torch.manual_seed(0)
    return {
        name: MemoryCheckpoint(
            {f"model.layers.{i}.mlp.w": torch.randn(s).to(dtype) for i, s in enumerate(shapes)}
        )
        for name in NAMES
    }


def of_low_rank(made):
    """The same base, with task vectors of rank 1: as low as methods on singular values look for."""
    found = {"base": made["base"]}
    for seed, name in enumerate(NAMES[1:]):
        noise = torch.Generator().manual_seed(seed)
        tensors = {}
        for key, info in made["base"].tensors.items():
            base = made["base"].read(key)
            change = torch.randn(info.shape, generator=noise, dtype=torch.float64)
            if change.ndim == 2:
                change = torch.outer(change[:, 0], change[0])
            tensors[key] = (base.double() + change).to(base.dtype)
        found[name] = MemoryCheckpoint(tensors)
    return found


def test_layers_that_are_run_twice_need_room_too():
    made = models(((24, 16), (24, 16), (24, 16)))
    plain, deeper = (estimate(made, "base", "float32", ["ties"], more) for more in (0, 2))
    assert (plain.live, deeper.live) == (3 * 24 * 16 * 4, 5 * 24 * 16 * 4)


def chosen(method):
    """Only as many models as a method takes."""
    most = METHODS[method].max_sources or 3
    return lambda made: {name: made[name] for name in NAMES[: most + 1]}


def greedy(method, **changes):
    """A recipe that needs all the statistics of its method."""
    made = recipe(method, **changes)
    knobs = {
        "sce": {"select_topk": Profile.of(0.5)},
        "pcb": {"whole_model": False},
    }.get(method, {})
    return dataclasses.replace(made, knobs={**made.knobs, **knobs})


# Estimated and true


@pytest.mark.sample(40)
@ALL
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_what_a_method_keeps_is_what_was_estimated_from_the_headers(method, dtype):
    of = of_low_rank if METHODS[method].prepare is core.prepare else dict
    made = chosen(method)(of(models(dtype=dtype)))
    workspace = Workspace(made, ROOM)
    for step in Planner(made).plan(greedy(method)):
        merge_tensor(step, workspace)
        workspace.release()
    used = ROOM - workspace.cache.budget
    assert used == estimate(made, "base", "auto", [method]).computed


@pytest.mark.sample(1)
@pytest.mark.parametrize("method", ["ties", "sce", "della"])
def test_what_is_kept_of_a_large_tensor_is_estimated_too(method):
    made = models(((1 << 11, (EXACT >> 11) + 1),))
    workspace = Workspace(made, ROOM)
    [step] = Planner(made).plan(greedy(method))
    merge_tensor(step, workspace)
    used = ROOM - workspace.cache.budget
    assert used == estimate(made, "base", "auto", [method]).computed


def test_the_live_model_is_as_large_as_its_parameters(folders, checkpoints):
    for dtype in ("float32", "bfloat16"):
        live = load(folders["base"], getattr(torch, dtype))
        size = sum(n_bytes(parameter) for parameter in live.parameters())
        assert estimate(checkpoints, "base", dtype, ["ties"]).live == size
        assert dtype != "bfloat16" or estimate(checkpoints, "base", "auto", []).live == size


def test_several_methods_keep_what_each_keeps():
    made = models()
    one, other, both = (
        estimate(made, "base", "auto", names) for names in (["ties"], ["della"], ["ties", "della"])
    )
    assert both.computed == one.computed + other.computed > 0
    assert both.step == max(one.step, other.step)


def test_a_seven_billion_model_is_estimated_in_no_time_and_without_its_memory():
    tensors = {
        f"model.layers.{i}.mlp.{n}.weight": TensorInfo((18944, 3584), "bfloat16")
        for i in range(28)
        for n in ("gate_proj", "up_proj")
    }
    headers = SimpleNamespace(tensors=tensors)
    need = estimate(dict.fromkeys(NAMES, headers), "base", "auto", list(METHODS))
    assert need.live == 56 * 2 * 18944 * 3584
    assert need.computed > 100 * GB


# Within bounds


@ALL
def test_the_bits_are_the_same_however_little_is_kept(method):
    made = models()
    engines = [ResidentEngine(made, room) for room in (0, 3000, ROOM)]
    for shift in (0.1, 0.0):
        nothing, some, everything = (dict(e.merge(greedy(method, shift=shift))) for e in engines)
        for name, tensor in everything.items():
            assert torch.equal(nothing[name], tensor)
            assert torch.equal(some[name], tensor)


@ALL
def test_no_more_is_kept_than_there_is_room(method):
    room = 2000
    workspace, made = Workspace(models(), room), models()
    for shift in (0.0, 0.1):
        for step in Planner(made).plan(greedy(method, shift=shift)):
            merge_tensor(step, workspace)
            workspace.release()
            held = n_bytes(tuple(workspace.cache._kept.values()))
            held += n_bytes(tuple(workspace._uniforms.values()))
            assert held + workspace.cache.budget == room >= held


def test_room_that_numbers_of_another_seed_took_is_free_again():
    workspace, made = Workspace(models(), ROOM), models()
    used = []
    for seed in (1, 2, 3):
        for step in Planner(made).plan(recipe("dare_linear", seed=seed)):
            merge_tensor(step, workspace)
        used.append(ROOM - workspace.cache.budget)
    assert used[0] == used[1] == used[2] > 0


def test_a_cache_makes_what_fits_once_and_the_rest_once_a_release():
    cache, made = Cache(budget=8), []

    def value(name, n):
        made.append(name)
        return (torch.zeros(n),)

    for _ in range(2):
        for _ in range(2):
            cache.get("small", lambda: value("small", 2))
            cache.get("large", lambda: value("large", 3))
        cache.release()
    assert made == ["small", "large", "large"]
    assert cache.budget == 0


# The plan


@pytest.mark.parametrize(
    ("need", "host", "device", "workers", "room"),
    [
        (Need(2 * GB, 1 * GB, 0), 13 * GB, None, 1, 5 * GB),
        (Need(2 * GB, 1 * GB, 0), 13 * GB, None, 5, 1 * GB),
        (Need(2 * GB, 1 * GB, 0), 3 * GB, None, 1, 0),
        (Need(14 * GB, 1 * GB, 0), 5 * GB, 80 * GB, 1, 2 * GB),
        (Need(14 * GB, 1 * GB, 0, largest=GB), 5 * GB, 80 * GB, 1, 1 * GB),
        (Need(500 * GB, 1 * GB, 0), None, None, 2, GB // 2),
    ],
)
def test_half_of_what_the_live_model_leaves_is_shared_by_the_workers(
    need, host, device, workers, room
):
    assert plan_memory(need, host, device, workers).budget == room


def test_a_gpu_holds_copies_of_models_in_most_of_what_the_live_model_leaves():
    need = Need(14 * GB, 1 * GB, 0)
    assert plan_memory(need, 5 * GB, 84 * GB).device_budget == 49 * GB
    assert plan_memory(need, 50 * GB).device_budget == 0


def test_slopes_need_the_gradients_of_two_tensors_in_the_live_models_dtype():
    made = models(((24, 16), (16,), (24, 20)))
    assert estimate(made, "base", "float32", ["ties"]).gradients == 0
    assert estimate(made, "base", "float32", ["ties"], slopes=True).gradients == 4 * 24 * 36


@pytest.mark.parametrize("tied", [False, True])
def test_an_embedding_that_is_the_head_too_has_two_gradients(tmp_path, tied):
    config = hf.LlamaConfig(
        vocab_size=512,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=tied,
    )
    checkpoint = open_checkpoint(save(hf.AutoModelForCausalLM.from_config(config), tmp_path))
    need = estimate({"base": checkpoint, "maths": checkpoint}, "base", "float32", ["ties"], 0, True)
    assert need.gradients == 2 * 4 * 512 * 16


def test_experts_of_a_mixture_have_gradients_as_transformers_keeps_them(tmp_path):
    """Both matrices that read a token are one parameter, of all experts."""
    config = CONFIGS["llama tied"]()
    checkpoint = open_checkpoint(save(hf.AutoModelForCausalLM.from_config(config), tmp_path))
    live = {"base": checkpoint, "maths": checkpoint}
    need = estimate(live, "base", "float32", ["linear"], slopes=True, n_experts=9)
    mixture = hf.MixtralConfig(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        vocab_size=config.vocab_size,
        num_local_experts=9,
    )
    parameters = hf.AutoModelForCausalLM.from_config(mixture).parameters()
    assert need.gradients == sum(sorted(4 * p.numel() for p in parameters)[-2:])


def test_experts_that_are_one_parameter_have_one_gradient(tmp_path):
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(CONFIGS["qwen3 moe"]())
    checkpoint = open_checkpoint(save(model, tmp_path))
    largest = sorted(4 * p.numel() for p in model.parameters())[-2:]
    need = estimate({"base": checkpoint, "maths": checkpoint}, "base", "float32", ["ties"], 0, True)
    assert need.gradients == sum(largest)
    experts = [info for name, info in checkpoint.tensors.items() if ".experts." in name]
    assert max(largest) > 2 * max(4 * info.n_elements for info in experts)


@pytest.mark.parametrize(
    ("gradients", "device", "workers", "graph"),
    [
        (0, None, 1, 0),
        (1 * GB, None, 1, 2 * GB),
        (GB // 2, None, 2, GB),
        (5 * GB, None, 1, 0),
        (1 * GB, 85 * GB, 1, 21 * GB // 2),
        (71 * GB, 85 * GB, 1, 0),
        (100 * GB, 85 * GB, 1, 0),
    ],
)
def test_a_pass_backwards_gets_half_of_what_all_else_leaves(gradients, device, workers, graph):
    need = Need(2 * GB if device is None else 14 * GB, 1 * GB, 0, gradients=gradients)
    assert plan_memory(need, 13 * GB, device, workers).graph == graph


def test_a_plan_says_when_not_all_can_be_kept():
    need = Need(2 * GB, 0, computed=4 * GB)
    assert plan_memory(need, 10 * GB).warnings == ()
    [warning] = plan_memory(need, 9 * GB).warnings
    assert "statistics need 4.0 GB but 3.5 GB are available" in warning


@pytest.mark.parametrize(
    ("host", "device", "messages"),
    [
        (16 * GB, None, [r"live model \(15.0 GB\)|15 GB", "need 16.5 GB|need 17 GB"]),
        (1 * GB, 80 * GB, ["merging a tensor .* needs 1.5 GB of memory, but only 1.0 GB is free"]),
        (1 * GB, 8 * GB, ["15 GB of device memory, but only 8.0 GB is free", "1.0 GB is free"]),
    ],
)
def test_what_cannot_fit_is_refused_with_the_numbers(host, device, messages):
    with pytest.raises(PreflightError) as caught:
        plan_memory(Need(15 * GB, 3 * GB // 2, 0), host, device)
    text = str(caught.value)
    for message in messages:
        assert re.search(message, text), text
    assert "smaller evaluation.dtype" in text or "fewer workers" in text


class Peak(TorchDispatchMode):
    """The most bytes that results of operations take at once, views counted once."""

    def __init__(self, held):
        super().__init__()
        self._known = {tensor.untyped_storage().data_ptr() for tensor in held}
        self._owners, self.now, self.most = {}, 0, 0

    def __torch_dispatch__(self, call, types, args=(), kwargs=None):
        result = call(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                at, size = storage.data_ptr(), storage.nbytes()
                if at not in self._known:
                    self._owners[at] = self._owners.get(at, 0) + 1
                    self.now += size if self._owners[at] == 1 else 0
                    self.most = max(self.most, self.now)
                    weakref.finalize(tensor, self._free, at, size)
        return result

    def _free(self, at, size):
        self._owners[at] -= 1
        self.now -= size if not self._owners[at] else 0


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt neox", "phi3"])
def test_a_pass_that_calibrates_takes_what_is_planned_or_somewhat_less(name):
    config = CONFIGS[name]()
    model = hf.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    content = {n: p for n, p in model.named_parameters() if n != "lm_head.weight"}
    pieces = [[i % 60 + 3 for i in range(64)]] * 12
    found = gather_activations(model, content, pieces)
    layers = linear_layers(model, content, True)
    gc.collect()
    with Peak(model.parameters()) as peak:
        repair(model, layers, {}, pieces, found.get, 1.0, lambda _: torch.float32)
    base = MemoryCheckpoint(content, config=config.to_dict())
    need = estimate({"base": base}, "base", "float32", [], calibrated=64 * 12)
    assert 0.9 * peak.most <= need.calibration <= 4 * peak.most
    assert estimate({"base": base}, "base", "float32", []) == dataclasses.replace(
        need, calibration=0
    )


def test_experts_count_as_often_as_a_token_passes_them():
    def tensors(*names):
        return {f"model.layers.0.{n}.weight": torch.empty(40, 10) for n in names}

    dense = tensors("mlp.gate_proj", "mlp.down_proj", "self_attn.o_proj")
    routed = tensors(*(f"mlp.experts.{e}.{n}" for e in range(9) for n in ("up", "down")))
    # 40 wide: three matrices and the widest once more, its copy and output, and two in float32.
    assert token_bytes(MemoryCheckpoint(dense), "float16") == 2 * 40 * (3 + 1 + 2) + 8 * 40
    mixture = MemoryCheckpoint(routed, config={"num_experts_per_tok": 2})
    assert token_bytes(mixture, "auto") == 4 * 80 * (2 + 1 + 2) + 8 * 80
    assert token_bytes(MemoryCheckpoint(dense), "float16", 2) == 2 * (280 + 360) + 8 * 120


def test_room_to_calibrate_is_kept_beside_the_live_model():
    need = Need(4 * GB, GB, 0, layers=(GB,) * 4, calibration=3 * GB)
    assert plan_memory(need, 10 * GB).budget == int(2 * GB * SHARE)  # 10 - (4 + 3 + 1)
    with pytest.raises(PreflightError, match=r"calibrating a merge \(3.0 GB\) .* need 8.0 GB"):
        plan_memory(need, 7 * GB)
    on_device = plan_memory(need, 10 * GB, 9 * GB)
    assert on_device.device_budget == int(2 * GB * DEVICE_SHARE)
    with pytest.raises(PreflightError, match=r"need 7\.0 GB of device memory"):
        plan_memory(need, 10 * GB, 6 * GB)
    assert plan_spread(need, 10 * GB, [6 * GB, 6 * GB]).placement
    with pytest.raises(PreflightError, match=r"and 3\.0 GB to calibrate"):
        plan_spread(need, 10 * GB, [4 * GB, 4 * GB])


# What the machine says


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_free_memory_is_the_least_of_machine_and_container(tmp_path):
    proc = write(tmp_path / "proc", meminfo="MemTotal: 9 kB\nMemAvailable:    4000 kB\n")
    empty = tmp_path / "empty"
    assert free_host_bytes(proc, empty) == 4_096_000
    assert free_host_bytes(empty, empty) is None
    new = write(
        tmp_path / "v2",
        memory__max="1000\n",
        memory__current="700\n",
        memory__stat="anon 5\ninactive_file 100\n",
    )
    assert free_host_bytes(proc, new) == 400
    unlimited = write(tmp_path / "v2b", memory__max="max\n", memory__current="7\n")
    assert free_host_bytes(proc, unlimited) == 4_096_000
    old = write(
        tmp_path / "v1" / "memory",
        memory__limit_in_bytes="1000",
        memory__usage_in_bytes="2000",
        memory__stat="total_inactive_file 100\n",
    )
    assert free_host_bytes(proc, old.parent) == 0


def test_this_machine_says_something():
    free = free_host_bytes()
    assert free is None or free > 0


def test_an_engine_has_its_own_copy_on_every_device_and_one_is_handed_over() -> None:
    made = models()
    plain, engine = (
        estimate(made, "base", "float32", ["ties"], engine=generates) for generates in (False, True)
    )
    assert (engine.engine, engine.handed) == (plain.live, plain.live)
    assert dataclasses.replace(engine, engine=0, handed=0) == plain
    need = Need(4 * GB, GB, 0, engine=4 * GB, handed=4 * GB)
    assert plan_memory(need, 15 * GB, None).budget == int(2 * GB * SHARE)  # 15 - (1 + 3 x 4)
    with pytest.raises(
        PreflightError, match=r"live model \(4.0 GB\), .*over \(4.0 GB\) and .* 13 GB"
    ):
        plan_memory(need, 12 * GB, None)
    on_device = plan_memory(need, 15 * GB, 10 * GB)
    assert on_device.device_budget == int(2 * GB * DEVICE_SHARE)
    assert on_device.budget == int(10 * GB * SHARE)
    with pytest.raises(PreflightError, match=r"engine .*\(4.0 GB\) need 8.0 GB of device memory"):
        plan_memory(need, 15 * GB, 7 * GB)
    layers = Need(4 * GB, GB, 0, layers=(GB,) * 4, engine=4 * GB, handed=4 * GB)
    assert sorted(plan_spread(layers, 15 * GB, [5 * GB, 5 * GB]).placement) == [0, 0, 1, 1]
    with pytest.raises(PreflightError, match=r"and 4.0 GB for the engine that generates"):
        plan_spread(layers, 15 * GB, [3 * GB, 3 * GB])
