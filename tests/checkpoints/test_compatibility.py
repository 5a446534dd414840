"""Models that cannot be merged say why before a weight is read."""

from __future__ import annotations

import json
import shutil
from shutil import copytree

import pytest
import torch

from automerge.checkpoints import check_models, open_checkpoint, scan
from automerge.errors import PreflightError
from tests.checkpoints.models import WORDS, gpt2, llama, save, tokenizer


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    torch.manual_seed(0)
    return save(llama(), tmp_path_factory.mktemp("compatibility") / "base")


@pytest.fixture
def source(base, tmp_path):
    return shutil.copytree(base, tmp_path / "source")


def check(base, source):
    found = check_models(("base", open_checkpoint(base)), {"fine": open_checkpoint(source)})
    return [fault.message for fault in found.faults], list(found.warnings)


def edit(file, **changes) -> None:
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


def test_a_copy_is_compatible(base, source):
    assert check(base, source) == ([], [])


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"hidden_size": 32}, "hidden_size: 32 in fine, 16 in base"),
        ({"num_hidden_layers": 2}, "num_hidden_layers: 2 in fine, 3 in base"),
        ({"vocab_size": 65}, "vocab_size: 65 in fine, 64 in base"),
        ({"num_key_value_heads": 4}, "num_key_value_heads: 4 in fine, 2 in base"),
    ],
)
def test_another_architecture_is_a_table_of_keys_and_the_tensors(base, change, key, tmp_path):
    faults, _ = check(base, save(llama(**change), tmp_path / "other"))
    assert key in faults[0]
    assert "tensor(s)" in faults[1]


def test_another_model_type_is_refused(base, tmp_path):
    faults, _ = check(base, save(gpt2(), tmp_path / "other"))
    assert "model_type: 'gpt2' in fine, 'llama' in base" in faults[0]


def test_another_rotary_base_is_a_warning_that_says_whose_the_merged_model_has(base, source):
    rotary = json.loads((source / "config.json").read_text())["rope_parameters"]
    edit(source / "config.json", rope_parameters=rotary | {"rope_theta": 5e5})
    faults, [warning] = check(base, source)
    assert not faults
    assert "rope_parameters is {'rope_theta': 500000.0" in warning
    assert "the merged model has base's: weights trained for other positions lose" in warning


@pytest.mark.parametrize(
    ("change", "weight"),
    [
        ({"hidden_act": "relu"}, "fatal"),
        ({"num_attention_heads": 2, "head_dim": 4, "num_key_value_heads": 1}, "unopened"),
        ({"hidden_act": "swish"}, "notable"),
        ({"rms_norm_eps": 1e-3}, "notable"),
        ({"sliding_window": 4}, "unknown"),
        ({"unsloth_version": "2025.3.19", "quantization": {"a": [1]}}, "unknown"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "notable"),
        ({"attention_dropout": 0.5, "initializer_range": 1.0, "use_cache": False}, "none"),
        ({"torch_dtype": "float16", "_name_or_path": "x", "eos_token_id": [2, 3]}, "none"),
    ],
)
def test_what_the_class_declares_decides(change, weight, base, source):
    edit(source / "config.json", rope_parameters=..., rope_theta=10_000.0, **change)
    if weight == "unopened":
        with pytest.raises(PreflightError, match="does not match the weights: 12 tensor"):
            open_checkpoint(source)
        return
    faults, warnings = check(base, source)
    assert bool(faults) == (weight == "fatal")
    assert bool(warnings) == (weight in ("notable", "unknown"))
    if weight == "unknown":
        assert "unknown to llama" in warnings[0]


def test_defaults_left_out_and_older_spellings_are_no_difference(base, source):
    edit(
        source / "config.json",
        rope_parameters=...,
        rope_theta=10_000.0,
        rms_norm_eps=...,
        transformers_version="4.40.0",
        torch_dtype="float32",
    )
    assert check(base, source) == ([], [])


def test_rotary_settings_in_the_older_spelling_are_no_difference(base, source, tmp_path):
    base = copytree(base, tmp_path / "stretched")
    rotary = {"rope_type": "linear", "factor": 2.0}
    edit(base / "config.json", rope_parameters={**rotary, "rope_theta": 10_000.0})
    old = {"type": "linear", "factor": 2.0}
    edit(source / "config.json", rope_parameters=..., rope_theta=10_000.0, rope_scaling=old)
    assert check(base, source) == ([], [])
    edit(source / "config.json", rope_scaling=old | {"factor": 4.0})
    assert check(base, source)[1]


def test_a_longer_context_is_a_warning(base, source):
    edit(source / "config.json", max_position_embeddings=9999)
    faults, warnings = check(base, source)
    assert not faults
    assert "max_position_embeddings is 9999" in warnings[0]


def test_a_config_with_a_broken_value_is_a_fault(base, source):
    edit(source / "config.json", hidden_size="wide")
    with pytest.raises(PreflightError, match="is not a valid configuration of llama") as refused:
        open_checkpoint(source)
    assert str(source / "config.json") in str(refused.value)


def test_another_dtype_is_a_warning(base, tmp_path):
    faults, warnings = check(base, save(llama().half(), tmp_path / "half"))
    assert not faults
    assert "stored in float16, but base in float32" in warnings[0]


def test_one_tied_and_one_untied_head_is_refused_with_its_reason(base, tmp_path):
    faults, _ = check(base, save(llama(tied=True), tmp_path / "tied"))
    assert "ties its output head" in faults[0]


SWAPPED = [*WORDS[:10], WORDS[11], WORDS[10], *WORDS[12:]]
RENAMED = [*WORDS[:-1], "other"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (SWAPPED, "permuted: 2 token(s) have a different id"),
        (RENAMED, "different: adds 1 token(s) ('other'), lacks 1 token(s)"),
    ],
)
def test_a_tokenizer_with_other_ids_is_refused(words, message, base, source):
    tokenizer(words).save_pretrained(source)
    faults, _ = check(base, source)
    assert message in faults[0]


def test_added_tokens_are_a_warning(base, source):
    tokenizer([*WORDS, "<tool>"]).save_pretrained(source)
    faults, warnings = check(base, source)
    assert not faults
    assert "its vocabulary is superset: adds 1 token(s) ('<tool>')" in warnings[0]


def test_other_roles_and_templates_are_warnings(base, source):
    edit(source / "tokenizer_config.json", eos_token={"content": "w5"})
    (source / "chat_template.jinja").write_text("{{ messages }}")
    faults, warnings = check(base, source)
    assert not faults
    assert "its eos_token is 'w5', but '</s>' in the base" in warnings[0]
    assert "chat template differs" in warnings[1]


def test_a_source_without_a_tokenizer_is_taken_to_use_the_bases_which_is_said(base, source):
    (source / "tokenizer.json").unlink()
    (source / "tokenizer_config.json").unlink()
    faults, [warning] = check(base, source)
    assert not faults
    assert "it has no tokenizer: its ids are assumed to mean the same" in warning


@pytest.mark.parametrize("content", ['{"added_tokens": [1]}', '{"model": {"vocab": [[]]}}'])
def test_a_tokenizer_file_that_is_none_is_a_fault(content, base, source):
    (source / "tokenizer.json").write_text(content)
    faults, _ = check(base, source)
    assert "tokenizer.json" in faults[0]


FILES = pytest.mark.parametrize(
    "file", ["config.json", "tokenizer_config.json", "generation_config.json"]
)
CODE = {"auto_map": {"AutoModel": "evil.Model"}}, {"sub": {"deep": [{"trust_remote_code": True}]}}


@FILES
@pytest.mark.parametrize("change", [*CODE, {"custom_generate": "org/evil"}], ids=str)
def test_whatever_needs_code_of_the_models_own_is_refused(file, change, source):
    own = {"architectures": ["EvilForCausalLM"], "auto_map": {"AutoModel": "evil.Model"}}
    edit(source / "config.json", **own)
    edit(source / file, **change)
    said = [fault.message for fault in scan(source)]
    assert any("run code" in message and file in message for message in said)


@FILES
@pytest.mark.parametrize("change", CODE, ids=str)
def test_code_that_a_native_model_does_without_is_ignored_with_a_note(file, change, base, source):
    edit(source / file, **change)
    faults, [warning, *_] = check(base, source)
    assert not faults
    assert f"{file} is ignored: transformers has this architecture" in warning


def test_generation_by_a_models_own_code_is_refused(source):
    edit(source / "generation_config.json", custom_generate="org/evil")
    assert "run code" in scan(source)[0].message


def test_a_tokenizer_that_needs_its_own_code_is_refused(source):
    (source / "tokenizer.json").unlink()
    edit(source / "tokenizer_config.json", tokenizer_class="OddTokenizer", auto_map={"A": "b.C"})
    assert "run code" in scan(source)[0].message


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize("value", ["org/kernel", {"text_config": "org/kernel"}])
def test_a_kernel_from_the_hub_is_refused_and_never_fetched(key, value, source):
    edit(source / "config.json", **{key: value})
    open_checkpoint(source)
    [fault] = scan(source)
    assert "'org/kernel', a kernel from the hub" in fault.message


def test_a_switch_that_is_off_asks_for_nothing(source):
    edit(source / "config.json", trust_remote_code=False, auto_map=None)
    assert scan(source) == []


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8", "compressed-tensors"])
def test_quantised_weights_are_refused_by_name(method, source):
    edit(source / "config.json", quantization_config={"quant_method": method, "bits": 4})
    [fault] = scan(source)
    assert f"quantised weights ({method}) cannot be merged" in fault.message
    edit(source / "config.json", quantization_config={"bits": 4})
    [fault] = scan(source)
    assert "quantised weights cannot be merged" in fault.message


def test_all_faults_of_all_models_come_at_once(base, source, tmp_path):
    edit(source / "config.json", quantization_config={"bits": 4})
    other = save(llama(hidden_size=32), tmp_path / "other")
    found = check_models(
        ("base", open_checkpoint(base)),
        {"a": open_checkpoint(source), "b": open_checkpoint(other)},
    )
    assert len(found.faults) == 3
