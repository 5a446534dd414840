"""Merging is bit for bit the same in a live model and on disk, whatever the architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
import transformers as hf

from automerge.checkpoints import align, open_checkpoint, places, stored_parts
from automerge.errors import PreflightError
from automerge.merging import ResidentEngine, merge_to_folder
from automerge.merging.live import live_tensors
from automerge.recipe import Profile, Recipe, RecipeSource, Vocabulary
from tests.checkpoints.models import perturb

COMMON = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**COMMON, "num_key_value_heads": 2}
GEMMA = {**GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}

CONFIGS: Mapping[str, Callable[[], hf.PretrainedConfig]] = {
    "llama": lambda: hf.LlamaConfig(**GROUPED),
    "llama tied": lambda: hf.LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "qwen2": lambda: hf.Qwen2Config(**GROUPED),
    "qwen3": lambda: hf.Qwen3Config(**GROUPED, head_dim=8),
    "mistral": lambda: hf.MistralConfig(**GROUPED, sliding_window=16),
    "gemma2": lambda: hf.Gemma2Config(**GEMMA),
    "gemma3 text": lambda: hf.Gemma3TextConfig(**GEMMA),
    "phi3": lambda: hf.Phi3Config(**GROUPED),
    "phi": lambda: hf.PhiConfig(**COMMON),
    "gpt2": lambda: hf.GPT2Config(
        vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1,
        eos_token_id=2,
    ),
    "gpt neox": lambda: hf.GPTNeoXConfig(**COMMON),
    "olmo": lambda: hf.OlmoConfig(**GROUPED),
    "olmo2": lambda: hf.Olmo2Config(**GROUPED),
    "mixtral": lambda: hf.MixtralConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2),
    "qwen2 moe": lambda: hf.Qwen2MoeConfig(
        **GROUPED, **EXPERTS, num_experts=4, shared_expert_intermediate_size=24
    ),
    "qwen3 moe": lambda: hf.Qwen3MoeConfig(**GROUPED, **EXPERTS, num_experts=4, head_dim=8),
    "t5": lambda: hf.T5Config(
        vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, pad_token_id=0,
        eos_token_id=2, decoder_start_token_id=0,
    ),
    "t5 gated untied": lambda: hf.T5Config(
        vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, pad_token_id=0,
        eos_token_id=2, decoder_start_token_id=0, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    ),
}  # fmt: skip


def auto(config: hf.PretrainedConfig):
    return hf.AutoModelForSeq2SeqLM if config.is_encoder_decoder else hf.AutoModelForCausalLM


@pytest.fixture(scope="module", params=CONFIGS)
def folders(request, tmp_path_factory) -> tuple[type, Mapping[str, Path]]:
    config = CONFIGS[request.param]()
    kind = auto(config)
    root = tmp_path_factory.mktemp("architecture")
    saved = {}
    for seed, name in enumerate(("base", "left", "right")):
        torch.manual_seed(0)
        model = kind.from_config(config).to(torch.bfloat16)
        if seed:
            perturb(model, seed)
        model.save_pretrained(root / name)
        saved[name] = root / name
    return kind, saved


def recipe(method: str) -> Recipe:
    knobs = {"weight": Profile.of({"mlp": [0.3, 0.7], "default": 0.5})}
    if method == "ties":
        knobs["density"] = Profile.of(0.5)
    return Recipe(method, tuple(RecipeSource(n, knobs) for n in ("left", "right")), base="base")


@pytest.mark.sample(5)
@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_live_and_exported_models_are_equal_and_load_whole(method, folders, tmp_path):
    kind, paths = folders
    checkpoints = {name: open_checkpoint(path) for name, path in paths.items()}
    live = kind.from_pretrained(paths["base"], dtype=torch.float32)
    report = ResidentEngine(checkpoints).merge_into(live, recipe(method))
    assert report.n_written > 0
    merge_to_folder(recipe(method), checkpoints, tmp_path / "out")
    exported, info = kind.from_pretrained(
        tmp_path / "out", dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    ours, theirs = live.state_dict(), exported.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    base = kind.from_pretrained(paths["base"], dtype=torch.float32).state_dict()
    moved = [name for name in ours if not torch.equal(ours[name], base[name])]
    assert moved == [name for name in ours if ours[name].is_floating_point()]


@pytest.mark.sample(5)
def test_task_arithmetic_in_the_live_model_is_the_formula(folders):
    kind, paths = folders
    checkpoints = {name: open_checkpoint(path) for name, path in paths.items()}
    live = kind.from_pretrained(paths["base"], dtype=torch.float32)
    knobs = {"weight": Profile.of(0.5)}
    made = Recipe(
        "task_arithmetic", tuple(RecipeSource(n, knobs) for n in ("left", "right")), base="base"
    )
    ResidentEngine(checkpoints).merge_into(live, made)
    states = {
        n: kind.from_pretrained(p, dtype=torch.float32).state_dict() for n, p in paths.items()
    }
    for name, found in live.state_dict().items():
        base = states["base"][name].double()
        delta = sum(0.5 * (states[n][name].double() - base) for n in ("left", "right"))
        assert torch.allclose(found.double(), base + delta, rtol=2**-7, atol=1e-6), name


def test_every_tensor_has_a_component_and_layers_run_from_0_to_1(folders):
    _, paths = folders
    found = places(open_checkpoint(paths["base"]).tensors)
    assert {p.component for p in found.values()} >= {"attention", "mlp", "embedding"}
    unplaced = [p.tensor for p in found.values() if p.component == "other"]
    assert all("relative_attention_bias" in name for name in unplaced), unplaced
    depths = {p.depth for p in found.values() if p.layer is not None}
    assert depths == {0.0, 1.0}


@pytest.mark.sample(5)
def test_the_vocabulary_of_any_architecture_can_be_padded(folders, tmp_path):
    kind, paths = folders
    opened = {name: open_checkpoint(path) for name, path in paths.items()}
    checkpoints = align(opened, "base", Vocabulary(pad_to_multiple_of=100)).checkpoints
    merge_to_folder(recipe("task_arithmetic"), checkpoints, tmp_path / "out")
    merge_to_folder(recipe("task_arithmetic"), opened, tmp_path / "plain")
    padded, info = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    plain = kind.from_pretrained(tmp_path / "plain")
    inputs = torch.arange(3, 11)[None]
    extra = {"decoder_input_ids": inputs} if padded.config.is_encoder_decoder else {}
    with torch.no_grad():
        found, expected = (m(inputs, **extra).logits.float() for m in (padded, plain))
    assert found.shape[-1] == 100
    assert torch.allclose(found[..., :64], expected, rtol=1e-2, atol=1e-3)
    assert (found.argmax(-1) < 64).all()


def test_a_stack_of_experts_must_be_filled_whole():
    model = hf.Qwen3MoeForCausalLM(CONFIGS["qwen3 moe"]())
    names = [
        name
        for name in (*stored_parts(model, model.state_dict()),)
        if "experts.1.up_proj" not in name
    ]
    with pytest.raises(PreflightError, match=r"fills .*gate_up_proj"):
        live_tensors(model, names)
