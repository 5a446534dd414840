"""Every option of PEFT's LoraConfig is applied, without effect, or refused by name.

A field that a new version of PEFT adds fails here until it is known. `python -m
tests.checkpoints.test_adapter_options` rewrites the table in docs/adapters.md.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from peft import LoraConfig

from automerge.checkpoints import open_checkpoint
from automerge.checkpoints.adapters.options import IA3_OPTIONS, LORA_OPTIONS, Option
from automerge.errors import PreflightError
from tests.checkpoints.adapters import edit, merged_logits, train
from tests.checkpoints.models import gpt2, llama

PAGE = Path(__file__).parents[2] / "docs/adapters.md"
ROW = re.compile(r"^\| `(\w+)` \|.*$\n?", flags=re.MULTILINE)
Q = {"target_modules": ["q_proj"]}


def biased():
    return llama(attention_bias=True)


def tied():
    return llama(tied=True)


# How PEFT trains with the option, where it is not refused.
TRAINED: Mapping[str, Mapping[str, object]] = {
    "task_type": Q | {"task_type": None},
    "peft_type": Q,
    "auto_mapping": Q | {"task_type": None},
    "peft_version": Q,
    "base_model_name_or_path": Q,
    "revision": Q | {"revision": None},
    "inference_mode": Q,
    "r": Q | {"r": 3},
    "target_modules": {"target_modules": r".*\.(q|k)_proj"},
    "exclude_modules": {"target_modules": "all-linear", "exclude_modules": ["k_proj"]},
    "lora_alpha": Q | {"lora_alpha": 5},
    "lora_dropout": Q | {"lora_dropout": 0.5},
    "fan_in_fan_out": {"build": gpt2, "target_modules": ["c_attn"], "fan_in_fan_out": True},
    "bias": Q | {"build": biased, "bias": "lora_only"},
    "use_rslora": Q | {"use_rslora": True},
    "modules_to_save": Q | {"modules_to_save": ["lm_head", "norm"]},
    "init_lora_weights": Q | {"init_lora_weights": "gaussian"},
    "layers_to_transform": Q | {"layers_to_transform": [1]},
    "layers_pattern": Q | {"layers_to_transform": [1], "layers_pattern": "layers"},
    "rank_pattern": Q | {"rank_pattern": {r".*1\.self_attn\.q_proj": 2}},
    "alpha_pattern": Q | {"alpha_pattern": {r".*1\.self_attn\.q_proj": 2}},
    "megatron_core": Q,
    "trainable_token_indices": Q | {"trainable_token_indices": [4]},
    "loftq_config": Q | {"loftq_config": {}},
    "eva_config": Q | {"init_lora_weights": "eva"},
    "corda_config": Q,
    "lora_ga_config": Q,
    "use_dora": Q | {"use_dora": True},
    "velora_config": Q | {"velora_config": {"num_groups": 4}},
    "qalora_group_size": Q | {"qalora_group_size": 8},
    "runtime_config": Q,
    "lora_bias": Q | {"build": biased, "lora_bias": True},
    "ensure_weight_tying": {
        "build": tied,
        "target_modules": ["embed_tokens"],
        "ensure_weight_tying": True,
    },
}
REFUSED: Mapping[str, object] = {
    "megatron_config": {"hidden_size": 16},
    "alora_invocation_tokens": [3, 4],
    "use_qalora": True,
    "monteclora_config": {"num_samples": 8},
    "layer_replication": [[0, 2], [1, 3]],
    "target_parameters": ["mlp.experts.gate_up_proj"],
    "use_bdlora": {"nblocks": 2},
    "arrow_config": {"top_k": 3},
    "kasa_config": {},
}
STARTS = (True, False, "gaussian", "eva", "orthogonal", "mica", "pissa", "olora")


def fields() -> set[str]:
    return {field.name for field in dataclasses.fields(LoraConfig)}


def test_every_option_of_peft_is_known():
    assert fields() == set(LORA_OPTIONS)
    refused = {name for name, option in LORA_OPTIONS.items() if option.use == "refused"}
    assert set(TRAINED) == set(LORA_OPTIONS) - refused
    assert set(REFUSED) == refused


@pytest.mark.sample(5)
@pytest.mark.parametrize("name", TRAINED)
def test_an_accepted_option_gives_what_peft_gives(name, tmp_path):
    trained = train(tmp_path, **TRAINED[name])
    ours = merged_logits(trained, tmp_path / "out")
    assert (ours - trained.logits).abs().max() < 2e-5 * trained.logits.abs().max()


@pytest.mark.sample(4)
@pytest.mark.parametrize("start", STARTS)
def test_an_accepted_initialisation_gives_what_peft_gives(start, tmp_path):
    trained = train(tmp_path, target_modules=["q_proj", "v_proj"], init_lora_weights=start)
    ours = merged_logits(trained, tmp_path / "out")
    assert (ours - trained.logits).abs().max() < 2e-5 * trained.logits.abs().max()


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_option_is_named_with_what_to_do(name, tmp_path):
    trained = train(tmp_path, **Q)
    edit(trained.folder, **{name: REFUSED[name] or {"x": 1}})
    with pytest.raises(PreflightError, match=f"'{name}' is not supported") as caught:
        open_checkpoint(trained.folder, open_checkpoint(trained.base))
    said = str(caught.value)
    assert "merge_and_unload" in said or "leave it out" in said


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_option_that_is_off_is_none(name, tmp_path):
    trained = train(tmp_path, **Q)
    for neutral in (None, False, [], {}):
        edit(trained.folder, **{name: neutral})
        open_checkpoint(trained.folder, open_checkpoint(trained.base))


def rows(options: Mapping[str, Option]) -> str:
    words = {"applied": "applied", "no effect": "no effect", "refused": "**refused**"}
    return "".join(
        f"| `{name}` | {words[option.use]} | {option.note} |\n" for name, option in options.items()
    )


def rewritten(page: str) -> str:
    """The page with the tables below the headings `LoraConfig` and `IA3Config` from the code."""
    for kind, options in (("LoraConfig", LORA_OPTIONS), ("IA3Config", IA3_OPTIONS)):
        before, heading, section = page.partition(f"## Options of `{kind}`\n")
        section, following, after = section.partition("\n## ")
        rule = "|---|---|---|\n"
        text = ROW.sub("", section).replace(rule, rule + rows(options))
        page = before + heading + text + following + after
    return page


def test_the_documents_table_is_that_of_the_code():
    page = PAGE.read_text(encoding="utf-8")
    assert page == rewritten(page), "run python -m tests.checkpoints.test_adapter_options"


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
