"""Mixtures of experts from dense models: by us, by mergekit-moe, and as the papers say."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers as hf
import yaml
from rich.console import Console
from safetensors.torch import load_file

from automerge.commands.merge import merge_file
from automerge.errors import AutomergeError
from automerge.evaluation.properties import MEASURES
from tests.checkpoints.models import llama, perturb, save

EXPERTS = [
    {
        "source_model": "a",
        "positive_prompts": ["w1 w2", "w3"],
        "negative_prompts": ["w9"],
        "residual_scale": 0.5,
    },
    {"source_model": "b", "positive_prompts": ["w4 w5 w6"]},
    {"source_model": "base", "positive_prompts": ["w7 w7"]},
]
PLAIN = [{"source_model": name} for name in ("a", "b")]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    base = llama(num_hidden_layers=2)
    for seed, name in enumerate(("base", "a", "b")):
        model = perturb(base, seed, 0.1) if seed else base
        save(model.to(torch.bfloat16), root / name)
        model.to(torch.float32)
    config = hf.MistralConfig(**{**base.config.to_dict(), "sliding_window": 4})
    save(hf.MistralForCausalLM(config), root / "mistral")
    save(llama(num_hidden_layers=2, attention_bias=True), root / "biased")
    qwen = hf.Qwen2Config(**{**base.config.to_dict(), "model_type": "qwen2"})
    save(hf.Qwen2ForCausalLM(qwen), root / "qwen")
    return root


def written(models: Path, experts: list[dict], base: str = "base", **keys) -> Path:
    """A file of mergekit-moe; models are folders beside it."""
    located = [{**e, "source_model": str(models / e["source_model"])} for e in experts]
    path = models / "moe.yaml"
    path.write_text(yaml.safe_dump({"base_model": str(models / base), "experts": located, **keys}))
    return path


def merged(path: Path, out: Path) -> Path:
    merge_file(path, out, Console(quiet=True))
    return out


def load(folder: Path, dtype=torch.bfloat16):
    config = hf.AutoConfig.from_pretrained(folder, experts_implementation="eager")
    model, info = hf.AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=dtype, output_loading_info=True
    )
    assert not any(info.values()), info
    return model


@pytest.mark.parametrize("mode", ["hidden", "hidden_avg", "cheap_embed"])
def test_the_same_file_gives_the_tensors_of_mergekit(mode, models, tmp_path):
    from mergekit.moe.config import MoEMergeConfig
    from mergekit.options import MergeOptions
    from mergekit.scripts.moe import build

    path = written(models, EXPERTS, gate_mode=mode, dtype="bfloat16")
    config = MoEMergeConfig.model_validate(yaml.safe_load(path.read_text()))
    build(config, str(tmp_path / "theirs"), MergeOptions(device="cpu"), device="cpu")
    ours = load(merged(path, tmp_path / "ours"))
    assert type(ours) is hf.MixtralForCausalLM
    theirs = load(tmp_path / "theirs").state_dict()
    assert ours.state_dict().keys() == theirs.keys()
    differing = [n for n, t in ours.state_dict().items() if not torch.equal(t, theirs[n])]
    assert differing == []


@pytest.mark.parametrize("base", ["base", "mistral"])
def test_an_upcycled_model_computes_what_the_dense_one_does(base, models, tmp_path):
    """All experts are the same, and the weights of those chosen add up to 1 in float32."""
    path = written(models, [{"source_model": base}] * 4, base=base, gate_mode="random", seed=3)
    mixture = load(merged(path, tmp_path / "out"), torch.float64)
    dense = hf.AutoModelForCausalLM.from_pretrained(models / base, dtype=torch.float64)
    tokens = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        found, wanted = mixture(tokens).logits, dense(tokens).logits
    assert torch.allclose(found, wanted, rtol=1e-6, atol=1e-6)
    assert mixture.config.num_local_experts == 4


def test_branch_train_mix_averages_all_but_the_experts(models, tmp_path):
    path = written(models, PLAIN, gate_mode="uniform_random", rest="average")
    found = load_file(merged(path, tmp_path / "out") / "model.safetensors")
    a, b = (load_file(models / name / "model.safetensors") for name in ("a", "b"))
    for name, tensor in found.items():
        if "block_sparse_moe.experts" in name:
            continue
        if "block_sparse_moe.gate" in name:
            bound = 16**-0.5
            assert bool((tensor.abs() <= bound).all())
            assert float(tensor.float().std()) == pytest.approx(bound / 3**0.5, rel=0.3)
            continue
        wanted = ((a[name].double() + b[name].double()) / 2).bfloat16()
        assert torch.equal(tensor, wanted), name
    up = "model.layers.1.block_sparse_moe.experts.1.w3.weight"
    assert torch.equal(found[up], b["model.layers.1.mlp.up_proj.weight"])


def test_the_seed_decides_random_gates(models, tmp_path):
    gates = []
    for number, seed in enumerate((1, 1, 2)):
        path = written(models, PLAIN, gate_mode="random", seed=seed)
        tensors = load_file(merged(path, tmp_path / f"{number}") / "model.safetensors")
        gates.append(tensors["model.layers.0.block_sparse_moe.gate.weight"])
    assert torch.equal(gates[0], gates[1])
    assert not torch.equal(gates[0], gates[2])


def test_active_parameters_are_those_that_a_token_passes(models, tmp_path):
    path = written(models, [*PLAIN, *PLAIN], gate_mode="random", experts_per_token=1)
    mixture = load(merged(path, tmp_path / "out"))
    live = SimpleNamespace(model=mixture)
    dense = load(models / "base")
    gates = 2 * 4 * 16
    assert MEASURES["active_parameters"](live) == dense.num_parameters() + gates
    assert MEASURES["parameters"](live) == dense.num_parameters() + gates + 3 * 2 * 3 * 16 * 24
    plain = SimpleNamespace(model=dense)
    assert MEASURES["active_parameters"](plain) == MEASURES["parameters"](plain)


@pytest.mark.parametrize(
    ("experts", "keys", "message"),
    [
        (PLAIN, {}, "gates by hidden need `positive_prompts` of every expert; add them, or set"),
        (PLAIN, {"gate_mode": "hiden"}, "expected one of hidden, .*; got 'hiden'"),
        (PLAIN, {"gate_mode": "random", "experts_per_token": 3}, "a number from 1 to 2, .*got 3"),
        (PLAIN, {"gate_mode": "random", "expert": 1}, "unknown key 'expert'; did you mean"),
        (PLAIN, {"gate_mode": "random", "shared_experts": []}, "a Mixtral has no shared experts"),
        (PLAIN, {"gate_mode": "random", "architecture": "qwen"}, "expected one of mixtral; got"),
        ([{**e, "positive_prompts": ["w1"]} for e in PLAIN], {}, "have the same prompts"),
        ([{**PLAIN[0], "noise_scale": 1}], {"gate_mode": "random"}, "the noise has no seed"),
        ([{**PLAIN[0], "positive_prompts": "w1"}], {}, "expected a list of texts, got 'w1'"),
        ([], {"gate_mode": "random"}, "expected a list of experts"),
        (PLAIN, {"gate_mode": "random", "base": "qwen"}, r"qwen|compared|differ"),
        ([{"source_model": "qwen"}] * 2, {"gate_mode": "random", "base": "qwen"}, "got qwen2"),
        ([{"source_model": "biased"}] * 2, {"gate_mode": "random", "base": "biased"}, "has no .*b"),
    ],
)
def test_what_cannot_be_made_is_refused(experts, keys, message, models, tmp_path):
    keys = dict(keys)
    path = written(models, experts, **keys)
    with pytest.raises(AutomergeError, match=message):
        merged(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_mixture_is_no_adapter(models, tmp_path):
    from automerge.commands.adapter_folder import AsAdapter

    path = written(models, PLAIN, gate_mode="random")
    with pytest.raises(AutomergeError, match="a mixture of experts is no adapter"):
        merge_file(path, tmp_path / "out", Console(quiet=True), AsAdapter(None))
