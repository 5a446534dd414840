"""LoRA adapters give the weights PEFT's merge_and_unload gives."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from automerge.checkpoints import is_adapter, open_checkpoint
from automerge.errors import PreflightError
from tests.checkpoints.models import gpt2, llama, save

CASES = {
    "plain": (llama, {"target_modules": ["q_proj", "down_proj"]}),
    "all linear": (llama, {"target_modules": "all-linear", "lora_alpha": 3}),
    "rslora": (llama, {"target_modules": ["v_proj"], "use_rslora": True}),
    "patterns": (
        llama,
        {
            "target_modules": ["q_proj", "down_proj"],
            "rank_pattern": {"down_proj": 2, "layers.1.self_attn.q_proj": 3},
            "alpha_pattern": {r"^model\.layers\.0\..*q_proj": 5, "down_proj": 7},
        },
    ),
    "modules to save": (llama, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "conv1d": (gpt2, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "embedding": (gpt2, {"target_modules": ["wte"]}),
    "task type": (llama, {"target_modules": ["o_proj"], "task_type": "CAUSAL_LM"}),
}


def adapter(tmp_path, build=llama, dtype=torch.float32, **config):
    """Save a base and an adapter over it with random factors; return both and PEFT's merge."""
    torch.manual_seed(0)
    model = build().to(dtype)
    base = save(model, tmp_path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = get_peft_model(model, LoraConfig(r=4, **config))
        with torch.no_grad():
            for parameter in wrapped.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        wrapped.save_pretrained(tmp_path / "adapter")
        merged = wrapped.merge_and_unload()
    return base, tmp_path / "adapter", merged


@pytest.mark.parametrize("case", CASES)
def test_merged_weights_equal_those_of_peft(case, tmp_path):
    build, config = CASES[case]
    base, folder, merged = adapter(tmp_path, build, **config)
    assert is_adapter(folder)
    original = open_checkpoint(base)
    checkpoint = open_checkpoint(folder, original)
    assert checkpoint.tensors == original.tensors
    n_changed = 0
    state = merged.state_dict()
    for name in checkpoint.tensors:
        torch.testing.assert_close(checkpoint.read(name), state[name], rtol=1e-6, atol=1e-7)
        n_changed += not torch.equal(original.read(name), checkpoint.read(name))
    assert n_changed > 0


def test_a_bfloat16_base_is_rounded_once(tmp_path):
    base, folder, _ = adapter(tmp_path, dtype=torch.bfloat16, target_modules=["q_proj"])
    original = open_checkpoint(base)
    merged = open_checkpoint(folder, original)
    name = "model.layers.1.self_attn.q_proj.weight"
    factors = load_file(folder / "adapter_model.safetensors")
    prefix = f"base_model.model.{name.removesuffix('.weight')}"
    down, up = (factors[f"{prefix}.lora_{x}.weight"].double() for x in "AB")
    expected = (original.read(name).double() + 2.0 * (up @ down)).bfloat16()
    assert merged.read(name).dtype == torch.bfloat16
    assert (merged.read(name) == expected).double().mean() > 0.99


def test_names_match_with_and_without_an_outer_prefix(tmp_path):
    base, folder, merged = adapter(tmp_path, gpt2, target_modules=["c_attn"], fan_in_fan_out=True)
    state = load_file(base / "model.safetensors")
    short = {name.removeprefix("transformer."): t for name, t in state.items()}
    save_file(short, base / "model.safetensors", metadata={"format": "pt"})
    checkpoint = open_checkpoint(folder, open_checkpoint(base))
    expected = merged.state_dict()["transformer.h.1.attn.c_attn.weight"]
    torch.testing.assert_close(checkpoint.read("h.1.attn.c_attn.weight"), expected)


REFUSED = {
    "dora": ({"use_dora": True}, "DoRA"),
    "other kind": ({"peft_type": "IA3"}, "only LORA"),
    "runtime": ({"runtime_config": {"x": 1}}, "'runtime_config' is not supported"),
    "tokenizer": ({"tokenizer_kwargs": {"trust_remote_code": True}}, "'tokenizer_kwargs'"),
    "replication": ({"layer_replication": [[0, 2]]}, "'layer_replication'"),
    "rank": ({"r": "4"}, "r must be a whole number"),
    "alpha": ({"lora_alpha": float("nan")}, "finite"),
    "regex bomb": ({"alpha_pattern": {"(a+)+b": 1}}, "not a simple"),
    "broken regex": ({"rank_pattern": {"[a": 1}}, "not a simple"),
    "stars": ({"rank_pattern": {".*.*.*.*.*x": 1}}, "not a simple"),
    "pattern value": ({"rank_pattern": {"q_proj": 0}}, "has the value 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_configuration_that_means_something_else_is_refused(case, tmp_path):
    change, message = REFUSED[case]
    base, folder, _ = adapter(tmp_path, target_modules=["q_proj"])
    config = json.loads((folder / "adapter_config.json").read_text()) | change
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(PreflightError, match=message):
        open_checkpoint(folder, open_checkpoint(base))


def test_code_named_by_a_configuration_is_never_imported(tmp_path):
    base, folder, _ = adapter(tmp_path, target_modules=["q_proj"])
    config = json.loads((folder / "adapter_config.json").read_text())
    config |= {"auto_mapping": {"parent_library": "evil"}, "megatron_core": "evil.core"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(PreflightError) as caught:
        open_checkpoint(folder, open_checkpoint(base))
    assert len(caught.value.faults) == 2


def test_an_adapter_of_another_model_is_refused(tmp_path):
    _, folder, _ = adapter(tmp_path, target_modules=["q_proj"])
    other = open_checkpoint(save(gpt2(), tmp_path / "other"))
    with pytest.raises(PreflightError, match="another model's adapter"):
        open_checkpoint(folder, other)


@pytest.mark.parametrize(
    ("name", "message"),
    [("lora_A", "B·A has shape"), ("lora_B", "only factor A")],
)
def test_factors_that_do_not_fit_are_refused(name, message, tmp_path):
    base, folder, _ = adapter(tmp_path, target_modules=["q_proj"])
    state = load_file(folder / "adapter_model.safetensors")
    key = sorted(k for k in state if name in k)[0]
    if name == "lora_A":
        state[key] = torch.zeros(4, 3)
    else:
        del state[key]
    save_file(state, folder / "adapter_model.safetensors")
    with pytest.raises(PreflightError, match=message):
        open_checkpoint(folder, open_checkpoint(base))
