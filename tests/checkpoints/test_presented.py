"""A model that transformers loads is one that merges, however it is stored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from automerge.checkpoints import open_checkpoint
from automerge.errors import PreflightError
from automerge.merging import ResidentEngine, merge_to_folder
from automerge.recipe import BASE_VOCABULARY, Profile, Recipe, RecipeSource
from automerge.session.preflight import compare_aligned
from tests.checkpoints.models import llama, perturb, save

TEXT = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
GEMMA = {**TEXT, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16}
MROPE = {
    **TEXT,
    "head_dim": 4,
    "rope_parameters": {"rope_type": "default", "mrope_section": [1, 0, 1], "rope_theta": 1e4},
}
DEPTH = {"hidden_size": 16, "depth": 2, "num_heads": 2}
IDS = {"image_token_id": 60, "video_token_id": 61, "vision_start_token_id": 58}
KINDS: Mapping[str, tuple[str, Callable[[], hf.PretrainedConfig]]] = {
    "gemma3": (
        "Gemma3ForConditionalGeneration",
        lambda: hf.Gemma3Config(
            text_config=GEMMA, vision_config=VISION, mm_tokens_per_image=4, image_token_index=60
        ),
    ),
    "qwen2_vl": (
        "Qwen2VLForConditionalGeneration",
        lambda: hf.Qwen2VLConfig(
            text_config=MROPE, vision_config={**DEPTH, "embed_dim": 16, "mlp_ratio": 2}, **IDS
        ),
    ),
    "qwen3_vl": (
        "Qwen3VLForConditionalGeneration",
        lambda: hf.Qwen3VLConfig(
            text_config=MROPE,
            vision_config={
                **DEPTH,
                "out_hidden_size": 16,
                "intermediate_size": 24,
                "deepstack_visual_indexes": [0],
                "num_position_embeddings": 16,
            },
            **IDS,
        ),
    ),
    "llava": (
        "LlavaForConditionalGeneration",
        lambda: hf.LlavaConfig(
            text_config={"model_type": "llama", **TEXT},
            vision_config={"model_type": "clip_vision_model", **VISION},
            image_token_index=60,
        ),
    ),
    "mistral3": (
        "Mistral3ForConditionalGeneration",
        lambda: hf.Mistral3Config(
            text_config={"model_type": "mistral", **TEXT, "head_dim": 4},
            vision_config={"model_type": "pixtral", **VISION},
            image_token_index=60,
        ),
    ),
    "clip": (
        "CLIPModel",
        lambda: hf.CLIPConfig(
            text_config={**TEXT, "max_position_embeddings": 32}, vision_config=VISION
        ),
    ),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        lambda: hf.Qwen3MoeConfig(
            **TEXT, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24
        ),
    ),
}


def as_in_memory(model: hf.PreTrainedModel, folder: Path) -> None:
    """Write a model under its live names, as trainers that gather shards do."""
    model.config.save_pretrained(folder)
    state = {id(v): (k, v.detach().clone()) for k, v in model.state_dict(keep_vars=True).items()}
    save_file(dict(state.values()), folder / "model.safetensors", metadata={"format": "pt"})


def tuned_recipe() -> Recipe:
    source = RecipeSource("tuned", {"weight": Profile.of(1.0)})
    return Recipe("task_arithmetic", (source,), base="base")


def merged(base: Path, tuned: Path, out: Path):
    """base + 1 · (tuned − base), on disk and in a live model, and what is said of the pair."""
    opened = open_checkpoint(base)
    pair = {"base": opened, "tuned": open_checkpoint(tuned, opened)}
    compared = compare_aligned(pair, "base", BASE_VOCABULARY)
    assert not compared.faults
    merge_to_folder(tuned_recipe(), compared.checkpoints, out)
    return compared


def edit_weights(folder: Path, change) -> None:
    state = load_file(folder / "model.safetensors")
    save_file(change(state), folder / "model.safetensors", metadata={"format": "pt"})


def edit_config(folder: Path, **changes) -> None:
    content = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(content))


@pytest.mark.sample(2)
@pytest.mark.parametrize("kind", KINDS)
def test_a_fine_tune_merges_whether_stored_as_on_disk_or_as_in_memory(kind, tmp_path):
    name, config = KINDS[kind]
    cls = getattr(hf, name)
    torch.manual_seed(0)
    cls(config()).save_pretrained(tmp_path / "base")
    tuned = perturb(cls.from_pretrained(tmp_path / "base"), 1)
    tuned.save_pretrained(tmp_path / "disk")
    (tmp_path / "memory").mkdir()
    as_in_memory(tuned, tmp_path / "memory")
    for how in ("disk", "memory"):
        compared = merged(tmp_path / "base", tmp_path / how, tmp_path / f"out {how}")
        made, info = cls.from_pretrained(tmp_path / f"out {how}", output_loading_info=True)
        assert not any(info.values())
        live = cls.from_pretrained(tmp_path / "base")
        ResidentEngine(compared.checkpoints).merge_into(live, tuned_recipe())
        wanted = cls.from_pretrained(tmp_path / how).state_dict()
        for found in (made.state_dict(), live.state_dict()):
            assert all(torch.allclose(found[k], v, atol=1e-6) for k, v in wanted.items())


@pytest.fixture
def base(tmp_path):
    torch.manual_seed(0)
    return save(llama(tied=True), tmp_path / "base")


@pytest.fixture
def tuned(base, tmp_path):
    model = perturb(hf.AutoModelForCausalLM.from_pretrained(base), 1)
    return save(model, tmp_path / "tuned")


def logits(folder: Path):
    with torch.no_grad():
        return hf.AutoModelForCausalLM.from_pretrained(folder)(torch.arange(3, 12)[None]).logits


HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    "change",
    [
        lambda s: s | {HEAD: s[EMBEDDING].clone()},
        lambda s: s | {HEAD: s[EMBEDDING] + 0.1 * torch.ones(64, 16).tril()},
        lambda s: {k: v for k, v in s.items() if k != EMBEDDING} | {HEAD: s[EMBEDDING]},
        lambda s: {k.removeprefix("model."): v for k, v in s.items()},
        lambda s: s | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)},
        lambda s: s | {"v_head.summary.weight": torch.ones(1, 16)},
    ],
    ids=["equal head", "own head", "head only", "no prefix", "rotary buffer", "value head"],
)
@pytest.mark.parametrize("whose", ["base", "tuned"])
def test_what_transformers_loads_is_what_is_merged(whose, change, base, tuned, tmp_path):
    edit_weights({"base": base, "tuned": tuned}[whose], change)
    merged(base, tuned, tmp_path / "out")
    assert torch.allclose(logits(tmp_path / "out"), logits(tuned), atol=1e-4)


def test_a_head_beside_a_tie_that_differs_counts_as_untied(tuned, base):
    edit_weights(tuned, lambda s: s | {HEAD: s[EMBEDDING] + 1})
    found = open_checkpoint(tuned, open_checkpoint(base))
    assert HEAD in found.tensors
    assert found.config["tie_word_embeddings"] is False


def classifier(folder: Path, labels: list[str]) -> Path:
    torch.manual_seed(0)
    config = hf.BertConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=32, num_labels=3,
    )  # fmt: skip
    save(hf.BertForSequenceClassification(config), folder)
    names = dict(enumerate(labels))
    edit_config(folder, id2label=names, label2id={name: i for i, name in names.items()})
    return folder


def test_labels_in_another_order_are_put_in_the_bases(tmp_path):
    base = open_checkpoint(classifier(tmp_path / "a", ["no", "maybe", "yes"]))
    other = open_checkpoint(classifier(tmp_path / "b", ["YES", "no", "maybe"]), base)
    for name in ("classifier.weight", "classifier.bias"):
        assert torch.equal(other.read(name), base.read(name)[[1, 2, 0]])
    with pytest.raises(PreflightError, match="id2label are good, bad, maybe, those of the base no"):
        open_checkpoint(classifier(tmp_path / "c", ["good", "bad", "maybe"]), base)


def test_labels_of_another_number_are_said_to_be_so(tmp_path):
    base = open_checkpoint(classifier(tmp_path / "a", ["no", "maybe", "yes"]))
    folder = tmp_path / "b"
    config = hf.BertConfig.from_pretrained(tmp_path / "a", num_labels=2)
    save(hf.BertForSequenceClassification(config), folder)
    with pytest.raises(PreflightError) as refused:
        open_checkpoint(folder, base)
    (fault,) = map(str, refused.value.faults)
    assert fault == (
        f"{folder / 'config.json'}: has 2 label(s), the base 3 ({tmp_path / 'a'}), so they differ "
        "in the shape of classifier.bias, classifier.weight and cannot be merged: leave it out, or "
        "merge the encoders alone, each saved without its head"
    )


HEADS = {
    "no head": (hf.LlamaForCausalLM, hf.LlamaModel, "lm_head"),
    "no head in the base": (hf.LlamaModel, hf.LlamaForCausalLM, None),
    "a reward model": (hf.LlamaForCausalLM, hf.LlamaForSequenceClassification, "lm_head"),
    "into a reward model": (hf.LlamaForSequenceClassification, hf.LlamaForCausalLM, "score"),
    "another head": (hf.BertForSequenceClassification, hf.BertForTokenClassification, "pooler"),
    "a masked head": (hf.BertForMaskedLM, hf.BertForSequenceClassification, "cls"),
    "an encoder": (hf.BertModel, hf.BertForSequenceClassification, None),
}


@pytest.mark.sample(4)
@pytest.mark.parametrize("case", HEADS)
def test_a_fine_tune_with_another_head_merges_as_the_bases_class_loads_it(case, tmp_path):
    theirs, own, kept = HEADS[case]
    config = hf.LlamaConfig(**TEXT) if "Llama" in theirs.__name__ else hf.BertConfig(**TEXT)
    for seed, (kind, name) in enumerate(((theirs, "base"), (own, "tuned"))):
        torch.manual_seed(seed)
        save(kind(config), tmp_path / name)
    compared = merged(tmp_path / "base", tmp_path / "tuned", tmp_path / "out")
    assert any(f"was saved as a {own.__name__}" in warning for warning in compared.warnings)
    made, base = (theirs.from_pretrained(tmp_path / name).state_dict() for name in ("out", "base"))
    loaded, info = theirs.from_pretrained(tmp_path / "tuned", output_loading_info=True)
    random = info["missing_keys"]
    assert bool(random) == (kept is not None)
    for name, wanted in loaded.state_dict().items():
        assert torch.allclose(made[name], base[name] if name in random else wanted, atol=1e-6)
    for name in random:
        assert kept in name


def test_labels_of_a_head_that_is_the_bases_do_not_matter(tmp_path):
    base = open_checkpoint(classifier(tmp_path / "a", ["no", "maybe", "yes"]))
    encoder = hf.BertForSequenceClassification.from_pretrained(tmp_path / "a").bert
    encoder.config.id2label = {0: "maybe", 1: "yes", 2: "no"}
    save(encoder, tmp_path / "b")
    found = open_checkpoint(tmp_path / "b", base)
    assert torch.equal(found.read("classifier.weight"), base.read("classifier.weight"))


def test_a_source_without_its_own_head_is_refused_also_where_the_base_ties_it(base, tmp_path):
    save(llama(tied=False), tmp_path / "untied")
    edit_weights(tmp_path / "untied", lambda s: {k: v for k, v in s.items() if k != HEAD})
    opened = open_checkpoint(base)
    pair = {"base": opened, "tuned": open_checkpoint(tmp_path / "untied", opened)}
    found = compare_aligned(pair, "base", BASE_VOCABULARY)
    assert any("lacks 1 tensor(s): lm_head.weight" in fault.message for fault in found.faults)


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        (lambda name: f"_orig_mod.{name}", "a name given by a wrapper in training"),
        (lambda name: f"module.{name}", "a name given by a wrapper in training"),
        (lambda name: name.replace("q_proj.weight", "q_proj.qweight"), "contain quantised weights"),
        (lambda name: f"other.{name}", "save the model again with save_pretrained"),
    ],
)
def test_layers_under_names_that_nobody_loads_are_refused_with_those_names(change, advice, tuned):
    edit_weights(tuned, lambda s: {change(k): v for k, v in s.items()})
    with pytest.raises(PreflightError, match="of layers that the weight files lack") as refused:
        open_checkpoint(tuned)
    assert advice in str(refused.value)


def test_numbers_that_json_does_not_have_are_read_as_transformers_writes_them(tmp_path):
    config = hf.Mamba2Config(
        vocab_size=64, hidden_size=16, num_hidden_layers=1, state_size=4, head_dim=8, num_heads=4,
        n_groups=1,
    )  # fmt: skip
    save(hf.Mamba2ForCausalLM(config), tmp_path / "base")
    assert "__float__" in (tmp_path / "base/config.json").read_text()
    save(perturb(hf.Mamba2ForCausalLM(config), 1), tmp_path / "tuned")
    merged(tmp_path / "base", tmp_path / "tuned", tmp_path / "out")
    made, tuned = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "tuned"))
    assert all(torch.allclose(made[name], tuned[name], atol=1e-6) for name in tuned)


EXTREME = {
    "num_hidden_layers": [10**4, 10**6, 2**31, -1],
    "vocab_size": [0, 2**31, -5],
    "hidden_size": [2**40, 2**62, -16, "wide", 16.5, None],
    "num_attention_heads": [0, -4, 2**40],
    "head_dim": [2**50],
    "rope_parameters": [[1]],
    "id2label": [{"x": "y"}, {str(i): "x" for i in range(100_001)}],
    "hidden_act": ["../x"],
    "dtype": ["nothing"],
}


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, vs in EXTREME.items() for v in vs])
def test_an_extreme_configuration_is_refused_in_one_sentence(key, value, base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "extreme")
    edit_config(folder, **{key: value})
    with pytest.raises(PreflightError) as refused:
        open_checkpoint(folder)
    [fault] = refused.value.faults
    assert fault.message.startswith(str(folder / "config.json"))
    assert len(fault.message.removeprefix(str(folder))) < 400
