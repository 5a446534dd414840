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
QWEN_SHARED = {"shared_experts": [{"source_model": "qwen"}]}
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
    for seed, name in enumerate(("qwen", "qwen-a", "qwen-b")):
        own = perturb(hf.Qwen2ForCausalLM(qwen), 10 + seed, 0.1)
        save(own.to(torch.bfloat16), root / name)
    wide = hf.Qwen2Config(**{**qwen.to_dict(), "use_sliding_window": True, "sliding_window": 4})
    wide.layer_types = ["full_attention", "sliding_attention"]
    save(hf.Qwen2ForCausalLM(wide), root / "qwen-window")
    return root


def written(models: Path, experts: list[dict], base: str = "base", **keys) -> Path:
    """A file of mergekit-moe; models are folders beside it."""

    def located(entries: list[dict]) -> list[dict]:
        return [{**e, "source_model": str(models / e["source_model"])} for e in entries]

    if shared := keys.get("shared_experts"):
        keys["shared_experts"] = located(shared)
    path = models / "moe.yaml"
    plain = {"base_model": str(models / base), "experts": located(experts), **keys}
    path.write_text(yaml.safe_dump(plain))
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


QWEN = {
    "base": "qwen",
    "experts": [
        {"source_model": "qwen-a", "positive_prompts": ["w1 w2"], "residual_scale": 0.5},
        {"source_model": "qwen-b", "positive_prompts": ["w4 w5"], "negative_prompts": ["w9"]},
    ],
    "shared_experts": [
        {"source_model": "qwen-b", "positive_prompts": ["w3 w6"], "residual_scale": 0.25}
    ],
}


@pytest.mark.sample(2)
@pytest.mark.parametrize("mode", ["hidden", "hidden_avg", "cheap_embed"])
@pytest.mark.parametrize("named", [{}, {"architecture": "qwen"}])
def test_a_qwen_mixture_has_the_tensors_of_mergekit(mode, named, models, tmp_path):
    from mergekit.moe.config import MoEMergeConfig
    from mergekit.options import MergeOptions
    from mergekit.scripts.moe import build

    path = written(models, **QWEN, gate_mode=mode, dtype="bfloat16", **named)
    config = MoEMergeConfig.model_validate(yaml.safe_load(path.read_text()))
    build(config, str(tmp_path / "theirs"), MergeOptions(device="cpu"), device="cpu")
    ours, theirs = load(merged(path, tmp_path / "ours")), load(tmp_path / "theirs")
    assert type(ours) is hf.Qwen2MoeForCausalLM
    own, wanted = ours.state_dict(), theirs.state_dict()
    assert own.keys() == wanted.keys()
    assert [name for name, tensor in own.items() if not torch.equal(tensor, wanted[name])] == []
    for key in ("num_experts", "num_experts_per_tok", "norm_topk_prob", "mlp_only_layers"):
        assert getattr(ours.config, key) == getattr(theirs.config, key)
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(ours(tokens).logits, theirs(tokens).logits)


@pytest.mark.parametrize("base", ["qwen", "qwen-window"])
def test_an_upcycled_qwen_without_its_shared_expert_computes_what_the_dense_one_does(
    base, models, tmp_path
):
    expert = {"source_model": base}
    shared = [{"source_model": base, "residual_scale": 0.0}]
    path = written(
        models, [expert] * 4, base=base, gate_mode="random", shared_experts=shared, seed=3
    )
    mixture = load(merged(path, tmp_path / "out"), torch.float32)
    dense = hf.AutoModelForCausalLM.from_pretrained(models / base, dtype=torch.float32)
    tokens = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        found, wanted = mixture(tokens).logits, dense(tokens).logits
    assert torch.allclose(found, wanted, rtol=0, atol=2**-16 * wanted.abs().max())


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
        (PLAIN, {"gate_mode": "random", "shared_experts": PLAIN[:1]}, "a Mixtral has no shared"),
        (PLAIN, {"gate_mode": "random", "shared_experts": PLAIN}, "expected a list of one expert"),
        (PLAIN, {"gate_mode": "random", "architecture": "qwen"}, "make a mixtral, not a qwen2_moe"),
        (PLAIN, {"gate_mode": "random", "architecture": "qwn"}, "expected one of mixtral, qwen"),
        ([{**e, "positive_prompts": ["w1"]} for e in PLAIN], {}, "have the same prompts"),
        ([{**PLAIN[0], "noise_scale": 1}], {"gate_mode": "random"}, "the noise has no seed"),
        ([{**PLAIN[0], "positive_prompts": "w1"}], {}, "expected a list of texts, got 'w1'"),
        ([], {"gate_mode": "random"}, "expected a list of experts"),
        (PLAIN, {"gate_mode": "random", "base": "qwen"}, r"qwen|compared|differ"),
        ([{"source_model": "qwen"}] * 2, {"gate_mode": "random", "base": "qwen"}, "name one under"),
        (QWEN["experts"], {**QWEN_SHARED, "base": "qwen"}, "need `positive_prompts` of every"),
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
