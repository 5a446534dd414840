"""A LoRA adapter gives the model PEFT makes of it, or is refused for what it is."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from automerge.checkpoints import is_adapter, notes, open_checkpoint, open_together
from automerge.errors import PreflightError
from tests.checkpoints.adapters import edit, logits, merged_logits, opened, train
from tests.checkpoints.models import WORDS, gpt2, llama, save, tokenizer

WEIGHTS = "adapter_model.safetensors"
Q = ["q_proj"]
BOTH = ["embed_tokens", "lm_head"]


def tied_llama():
    return llama(tied=True)


def biased_llama():
    return llama(attention_bias=True)


CASES = {
    "plain": {"target_modules": ["q_proj", "down_proj"]},
    "all linear": {"target_modules": "all-linear", "lora_alpha": 3},
    "head": {"target_modules": ["lm_head"]},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "head and embedding": {"target_modules": BOTH},
    "head without its base": {
        "target_modules": ["lm_head"],
        "saved": {"save_embedding_layers": False},
    },
    "head beside a tie": {"build": tied_llama, "target_modules": ["lm_head"]},
    "embedding beside a tie": {"build": tied_llama, "target_modules": ["embed_tokens"]},
    "both beside a tie": {"build": tied_llama, "target_modules": BOTH},
    "tied factors": {
        "build": tied_llama,
        "target_modules": ["embed_tokens"],
        "ensure_weight_tying": True,
    },
    "embedding of gpt2": {"build": gpt2, "target_modules": ["wte"]},
    "saved head beside a tie": {
        "build": tied_llama,
        "target_modules": Q,
        "modules_to_save": ["lm_head"],
    },
    "saved embedding beside a tie": {
        "build": tied_llama,
        "target_modules": Q,
        "modules_to_save": ["embed_tokens"],
    },
    "saved both beside a tie": {
        "build": tied_llama,
        "target_modules": Q,
        "modules_to_save": BOTH,
    },
    "saved both tied": {
        "build": tied_llama,
        "target_modules": Q,
        "modules_to_save": BOTH,
        "ensure_weight_tying": True,
    },
    "tokens": {"target_modules": Q, "trainable_token_indices": [3, 5]},
    "tokens of both": {
        "target_modules": Q,
        "trainable_token_indices": {"embed_tokens": [3, 5], "lm_head": [1, 4, 6]},
    },
    "tokens beside a tie": {
        "build": tied_llama,
        "target_modules": Q,
        "trainable_token_indices": [5, 3],
    },
    "tokens of both beside a tie": {
        "build": tied_llama,
        "target_modules": Q,
        "trainable_token_indices": {"embed_tokens": [3, 5], "lm_head": [1, 4]},
    },
    "conv1d": {"build": gpt2, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True},
    "conv1d and linear": {"build": gpt2, "target_modules": ["c_proj", "lm_head"]},
    "dora": {"target_modules": ["q_proj", "down_proj"], "use_dora": True},
    "dora of conv1d": {"build": gpt2, "target_modules": ["c_attn", "c_proj"], "use_dora": True},
    "dora of an embedding": {"target_modules": ["embed_tokens"], "use_dora": True},
    "pissa": {"target_modules": ["q_proj", "v_proj", "down_proj"], "init_lora_weights": "pissa"},
    "pissa, scaled": {
        "target_modules": Q,
        "init_lora_weights": "pissa",
        "lora_alpha": 3,
        "use_rslora": True,
    },
    "pissa of conv1d": {
        "build": gpt2,
        "target_modules": ["c_attn", "c_proj"],
        "init_lora_weights": "pissa",
    },
    "pissa and dora": {"target_modules": Q, "init_lora_weights": "pissa", "use_dora": True},
    "pissa of a head": {"target_modules": ["lm_head"], "init_lora_weights": "pissa"},
    "pissa of an embedding": {"target_modules": ["embed_tokens"], "init_lora_weights": "pissa"},
    "olora": {
        "target_modules": ["q_proj", "v_proj", "down_proj"],
        "init_lora_weights": "olora",
        "lora_alpha": 3,
    },
    "biases": {"build": biased_llama, "target_modules": Q, "bias": "all"},
    "patterns": {
        "target_modules": ["q_proj", "down_proj"],
        "rank_pattern": {"down_proj": 2, "layers.1.self_attn.q_proj": 3},
        "alpha_pattern": {r"^model\.layers\.0\..*q_proj": 5, "down_proj": 7},
    },
}


@pytest.mark.sample(5)
@pytest.mark.parametrize("case", CASES)
def test_an_adapter_merged_is_the_model_peft_makes_of_it(case, tmp_path):
    trained = train(tmp_path, **CASES[case])
    ours = merged_logits(trained, tmp_path / "out")
    assert (ours - trained.logits).abs().max() < 2e-5 * trained.logits.abs().max()
    assert (logits(opened(trained.base)) - trained.logits).abs().max() > 1e-3


TIED = {"tied factors", "saved both tied", "tokens beside a tie"}


@pytest.mark.sample(4)
@pytest.mark.parametrize("case", [n for n, c in CASES.items() if c.get("build") is tied_llama])
def test_a_head_stays_tied_only_where_it_was_trained_so(case, tmp_path):
    trained = train(tmp_path, **CASES[case])
    merged_logits(trained, tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["tie_word_embeddings"] is (case in TIED)


# Vocabularies

RESIZED = {
    "only modules": {"target_modules": Q},
    "saved": {"target_modules": Q, "modules_to_save": BOTH},
    "saved embedding": {"target_modules": Q, "modules_to_save": ["embed_tokens"]},
    "factors": {"target_modules": ["q_proj", *BOTH]},
    "tokens": {"target_modules": Q, "trainable_token_indices": [60, 61]},
}


@pytest.mark.sample(5)
@pytest.mark.parametrize("rows", [66, 62])
@pytest.mark.parametrize("build", [llama, tied_llama])
@pytest.mark.parametrize("case", RESIZED)
def test_an_adapter_of_a_resized_embedding_has_the_rows_of_its_tokens(case, build, rows, tmp_path):
    trained = train(tmp_path, build, rows=rows, **RESIZED[case])
    tokenizer([*WORDS, "<x>", "<y>"][:rows]).save_pretrained(trained.folder)
    checkpoint = open_checkpoint(trained.folder, open_checkpoint(trained.base))
    assert checkpoint.tensors["model.embed_tokens.weight"].shape == (rows, 16)
    assert checkpoint.config["vocab_size"] == rows
    ours = merged_logits(trained, tmp_path / "out")
    n = min(rows, 64)
    difference = (
        (ours - trained.logits[..., :64])[..., :n]
        if rows > 64
        else (ours[..., :n] - trained.logits)
    )
    assert difference.abs().max() < 2e-5 * trained.logits.abs().max()


def test_an_adapters_own_tokenizer_decides_where_its_rows_go(tmp_path):
    words = [*WORDS[:3], *reversed(WORDS[3:])]
    trained = train(tmp_path, target_modules=Q, modules_to_save=BOTH)
    tokenizer(words).save_pretrained(trained.folder)
    checkpoints = open_together({"base": trained.base, "lora": trained.folder}, "base")
    own = load_file(trained.folder / WEIGHTS)["base_model.model.lm_head.weight"]
    rows = [words.index(word) for word in WORDS]
    assert torch.equal(checkpoints["lora"].read("lm_head.weight"), own[rows])


def test_rows_that_an_adapter_does_not_hold_are_asked_for(tmp_path):
    trained = train(tmp_path, rows=66, target_modules=["embed_tokens"])
    state = load_file(trained.folder / WEIGHTS)
    kept = {k: v for k, v in state.items() if "base_layer" not in k}
    save_file(kept, trained.folder / WEIGHTS)
    with pytest.raises(PreflightError, match="save_embedding_layers=True"):
        open_checkpoint(trained.folder, open_checkpoint(trained.base))
    trained = train(tmp_path, rows=66, target_modules=Q)
    state = load_file(trained.folder / WEIGHTS)
    kept = {k: v for k, v in state.items() if "lm_head" not in k}
    save_file(kept, trained.folder / WEIGHTS)
    with pytest.raises(PreflightError, match="numbers of rows differ"):
        open_checkpoint(trained.folder, open_checkpoint(trained.base))


# Storage


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_factors_are_read_in_any_plain_dtype(stored, tmp_path):
    trained = train(tmp_path, target_modules=Q, modules_to_save=["lm_head"])
    state = load_file(trained.folder / WEIGHTS)
    save_file({k: v.to(stored) for k, v in state.items()}, trained.folder / WEIGHTS)
    name = "model.layers.1.self_attn.q_proj"
    down, up = (state[f"base_model.model.{name}.lora_{x}.weight"].to(stored) for x in "AB")
    original = open_checkpoint(trained.base)
    merged = open_checkpoint(trained.folder, original)
    expected = original.read(f"{name}.weight").double() + 2 * (up.double() @ down.double())
    torch.testing.assert_close(merged.read(f"{name}.weight").double(), expected)
    assert merged.read("lm_head.weight").dtype == torch.float32


@pytest.mark.parametrize("dora", [False, True])
def test_a_bfloat16_base_is_rounded_once(dora, tmp_path):
    trained = train(tmp_path, dtype=torch.bfloat16, target_modules=Q, use_dora=dora)
    original = open_checkpoint(trained.base)
    merged = open_checkpoint(trained.folder, original)
    name = "model.layers.1.self_attn.q_proj.weight"
    factors = load_file(trained.folder / WEIGHTS)
    prefix = f"base_model.model.{name.removesuffix('.weight')}"
    down, up = (factors[f"{prefix}.lora_{x}.weight"].double() for x in "AB")
    expected = original.read(name).double() + 2.0 * (up @ down)
    if dora:
        magnitude = factors[f"{prefix}.lora_magnitude_vector"].double()
        expected *= (magnitude / expected.norm(dim=1))[:, None]
    assert merged.read(name).dtype == torch.bfloat16
    assert (merged.read(name) == expected.bfloat16()).double().mean() > 0.99


def rename(folder, change):
    state = load_file(folder / WEIGHTS)
    save_file({change(k): v for k, v in state.items()}, folder / WEIGHTS)


NAMES = {
    "the adapter's name": lambda k: k.replace(".weight", ".default.weight"),
    "another name": lambda k: k.replace(".weight", ".my-lora.weight"),
    "no prefix": lambda k: k.removeprefix("base_model.model."),
    "compiled": lambda k: k.replace("base_model.model.", "_orig_mod.base_model.model."),
    "data parallel": lambda k: f"module.{k}",
    "sharded": lambda k: k.replace("layers.1.", "layers.1._fsdp_wrapped_module."),
}


@pytest.mark.parametrize("case", NAMES)
def test_names_are_those_of_peft_and_of_trainers(case, tmp_path):
    trained = train(tmp_path, target_modules=["q_proj", "down_proj"])
    rename(trained.folder, NAMES[case])
    ours = merged_logits(trained, tmp_path / "out")
    assert (ours - trained.logits).abs().max() < 2e-5 * trained.logits.abs().max()


def test_older_names_of_saved_modules_are_read(tmp_path):
    trained = train(tmp_path, target_modules=Q, modules_to_save=["lm_head"])
    rename(trained.folder, lambda k: k.replace("lm_head.", "lm_head.modules_to_save.default."))
    ours = merged_logits(trained, tmp_path / "out")
    assert (ours - trained.logits).abs().max() < 2e-5 * trained.logits.abs().max()


def test_names_match_with_and_without_an_outer_prefix(tmp_path):
    trained = train(tmp_path, gpt2, target_modules=["c_attn"], fan_in_fan_out=True)
    state = load_file(trained.base / "model.safetensors")
    short = {name.removeprefix("transformer."): t for name, t in state.items()}
    save_file(short, trained.base / "model.safetensors", metadata={"format": "pt"})
    ours = merged_logits(trained, tmp_path / "out")
    assert (ours - trained.logits).abs().max() < 2e-5 * trained.logits.abs().max()


# Folders


def test_what_trainers_leave_beside_an_adapter_does_not_matter(tmp_path):
    trained = train(tmp_path, target_modules=Q)
    (trained.folder / "config.json").write_bytes((trained.base / "config.json").read_bytes())
    (trained.folder / "optimizer.pt").write_bytes(b"x")
    (trained.folder / "trainer_state.json").write_text("{}")
    assert is_adapter(trained.folder)
    ours = merged_logits(trained, tmp_path / "out")
    assert (ours - trained.logits).abs().max() < 2e-5 * trained.logits.abs().max()


def test_pickled_weights_are_refused_with_a_command_that_converts_them(tmp_path, monkeypatch):
    trained = train(tmp_path, target_modules=Q)
    state = load_file(trained.folder / WEIGHTS)
    torch.save(state, trained.folder / "adapter_model.bin")
    (trained.folder / WEIGHTS).unlink()
    base = open_checkpoint(trained.base)
    with pytest.raises(PreflightError, match=r"adapter_model\.bin, a pickle") as caught:
        open_checkpoint(trained.folder, base)
    code = str(caught.value).split('python -c "')[1].rstrip('"')
    exec(code, {})
    assert load_file(trained.folder / WEIGHTS).keys() == state.keys()
    open_checkpoint(trained.folder, base)


def emptied(trained):
    (trained.folder / WEIGHTS).unlink()
    return trained.folder


def without_config(trained):
    (trained.folder / "adapter_config.json").unlink()
    return trained.folder


def with_model(trained):
    for name in ("config.json", "model.safetensors"):
        (trained.folder / name).write_bytes((trained.base / name).read_bytes())
    return trained.folder


def nested(trained):
    outer = trained.folder.parent / "run"
    outer.mkdir()
    trained.folder.rename(outer / "checkpoint-500")
    return outer


FOLDERS = {
    "no weights": (emptied, "an adapter without adapter_model.safetensors"),
    "no configuration": (without_config, "no adapter_config.json"),
    "two models": (with_model, "contains both a model"),
    "one folder further in": (nested, "folders that do: checkpoint-500"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_that_is_no_adapter_is_called_what_it_is(case, tmp_path):
    change, message = FOLDERS[case]
    trained = train(tmp_path, target_modules=Q)
    folder = change(trained)
    with pytest.raises(PreflightError, match=message):
        open_checkpoint(folder, open_checkpoint(trained.base))


def test_an_adapter_without_a_base_asks_for_one(tmp_path):
    trained = train(tmp_path, target_modules=Q)
    with pytest.raises(PreflightError, match="name the model it was trained on as the base"):
        open_checkpoint(trained.folder)


@pytest.mark.parametrize(
    ("named", "warned"),
    [
        (None, False),
        ("", False),
        ("org/base", False),
        ("unsloth/Base-bnb-4bit", False),
        ("/home/me/base/", False),
        ("org/another", True),
    ],
)
def test_a_base_of_another_name_is_a_warning(named, warned, tmp_path):
    trained = train(tmp_path, target_modules=Q)
    edit(trained.folder, base_model_name_or_path=named)
    found = notes(open_checkpoint(trained.folder, open_checkpoint(trained.base)))
    assert bool(found) is warned


# Refusals

REFUSED = {
    "rank": ({"r": "4"}, "r must be a whole number"),
    "alpha": ({"lora_alpha": float("nan")}, "finite"),
    "regex bomb": ({"alpha_pattern": {"(a+)+b": 1}}, "not a simple"),
    "broken regex": ({"rank_pattern": {"[a": 1}}, "not a simple"),
    "stars": ({"rank_pattern": {".*.*.*.*.*x": 1}}, "not a simple"),
    "pattern value": ({"rank_pattern": {"q_proj": 0}}, "has the value 0"),
    "token ids": ({"trainable_token_indices": ["a"]}, "lists of token ids"),
    "tokenizer": ({"tokenizer_kwargs": {"trust_remote_code": True}}, "'tokenizer_kwargs'"),
    "corda": ({"init_lora_weights": "corda"}, "CorDA"),
    "loftq": ({"init_lora_weights": "loftq"}, "LoftQ"),
    "lora_ga": ({"init_lora_weights": "lora_ga"}, "LoRA-GA"),
    "random svd": ({"init_lora_weights": "pissa_niter_16"}, "path_initial_model_for_weight"),
    "unknown start": ({"init_lora_weights": "pissa2"}, "not known to this version"),
    "dora without magnitudes": ({"use_dora": True}, "has no magnitudes"),
    "tokens that are not there": ({"r": 8}, "rank 8"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_configuration_that_means_something_else_is_refused(case, tmp_path):
    change, message = REFUSED[case]
    trained = train(tmp_path, target_modules=Q)
    edit(trained.folder, **change)
    with pytest.raises(PreflightError, match=message):
        open_checkpoint(trained.folder, open_checkpoint(trained.base))


@pytest.mark.parametrize("kind", ["LOHA", "VERA", "ADALORA", "XLORA", "PROMPT_TUNING", None])
def test_other_kinds_of_peft_are_refused_by_name(kind, tmp_path):
    trained = train(tmp_path, target_modules=Q)
    edit(trained.folder, peft_type=kind)
    with pytest.raises(PreflightError, match=repr(kind)) as caught:
        open_checkpoint(trained.folder, open_checkpoint(trained.base))
    assert "merge_and_unload" in str(caught.value) or "leave it out" in str(caught.value)


def test_code_named_by_a_configuration_is_never_imported(tmp_path):
    trained = train(tmp_path, target_modules=Q)
    edit(trained.folder, auto_mapping={"parent_library": "evil"}, megatron_core="evil.core")
    with pytest.raises(PreflightError) as caught:
        open_checkpoint(trained.folder, open_checkpoint(trained.base))
    assert len(caught.value.faults) == 2


def test_an_adapter_of_another_model_is_refused(tmp_path):
    trained = train(tmp_path, target_modules=Q)
    other = open_checkpoint(save(gpt2(), tmp_path / "other"))
    with pytest.raises(PreflightError, match="another model's adapter"):
        open_checkpoint(trained.folder, other)


def test_several_adapters_in_one_file_are_refused_by_name(tmp_path):
    trained = train(tmp_path, target_modules=Q)
    state = load_file(trained.folder / WEIGHTS)
    both = {k.replace(".weight", f".{n}.weight"): v.clone() for k, v in state.items() for n in "ab"}
    save_file(both, trained.folder / WEIGHTS)
    with pytest.raises(PreflightError, match=r"contains 2 adapters \(a, b\)"):
        open_checkpoint(trained.folder, open_checkpoint(trained.base))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lora_A", "B·A has shape"),
        ("lora_B", "only factor A"),
        ("lora_E", "not a known tensor"),
    ],
)
def test_factors_that_do_not_fit_are_refused(name, message, tmp_path):
    trained = train(tmp_path, target_modules=Q)
    state = load_file(trained.folder / WEIGHTS)
    if name == "lora_E":
        state["base_model.model.model.layers.0.self_attn.q_proj.lora_E"] = torch.zeros(4)
    else:
        key = sorted(k for k in state if name in k)[0]
        state[key] = torch.zeros(4, 3)
        if name == "lora_B":
            del state[key]
    save_file(state, trained.folder / WEIGHTS)
    with pytest.raises(PreflightError, match=message):
        open_checkpoint(trained.folder, open_checkpoint(trained.base))


def test_a_bias_that_the_base_does_not_have_is_refused(tmp_path):
    trained = train(tmp_path, target_modules=Q)
    state = load_file(trained.folder / WEIGHTS)
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias"
    save_file(state | {key: torch.ones(16)}, trained.folder / WEIGHTS)
    edit(trained.folder, lora_bias=True)
    with pytest.raises(PreflightError, match="lora_bias"):
        open_checkpoint(trained.folder, open_checkpoint(trained.base))
