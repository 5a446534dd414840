"""Models with the vocabularies people have merge as if they had one."""

from __future__ import annotations

import gc
import io
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from automerge.checkpoints import open_checkpoint
from automerge.checkpoints.vocabularies.alignment import align
from automerge.commands.merge import merge_file
from automerge.errors import PreflightError
from automerge.merging import ResidentEngine, merge_to_folder
from automerge.recipe import BASE_VOCABULARY, Profile, Recipe, RecipeSource, Vocabulary
from automerge.session.preflight import open_models
from tests.checkpoints.vocabularies import (
    TEXT,
    bpe,
    edit_json,
    edit_weights,
    permuted,
    rewritten,
    with_added,
    write,
)

BASE = bpe()
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def recipe(*sources: str, method: str = "task_arithmetic", weight: float = 0.5) -> Recipe:
    knobs = {"weight": Profile.of(weight)}
    return Recipe(method, tuple(RecipeSource(s, knobs) for s in sources), base="base")


def opened(folders: dict[str, Path], vocabulary: Vocabulary = BASE_VOCABULARY):
    found = open_models({n: str(f) for n, f in folders.items()}, "base", lambda _: None, vocabulary)
    return found.checkpoints, found.warnings


def merged(
    out: Path, made: Recipe, folders: dict[str, Path], vocabulary: Vocabulary = BASE_VOCABULARY
) -> Path:
    checkpoints, _ = opened(folders, vocabulary)
    merge_to_folder(made, checkpoints, out)
    return out


def load(folder: Path):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def ids_by_token(folder: Path) -> dict[str, int]:
    found: dict[str, int] = AutoTokenizer.from_pretrained(folder).get_vocab()
    return found


def logits_by_token(folder: Path, text: str) -> dict[str, torch.Tensor]:
    """The last position's logit of each token."""
    inputs = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids
    with torch.no_grad():
        last = load(folder)(inputs).logits[0, -1]
    return {token: last[i] for token, i in ids_by_token(folder).items()}


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def pair(request, tmp_path) -> dict[str, Path]:
    tie = request.param
    return {
        "base": write(tmp_path / "base", BASE, tie_word_embeddings=tie),
        "fine": write(tmp_path / "fine", BASE, seed=1, tie_word_embeddings=tie),
    }


@pytest.mark.sample(3)
@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "linear"])
def test_a_permuted_source_merges_as_the_same_source_in_the_bases_order(method, pair, tmp_path):
    moved = rewritten(pair["fine"], tmp_path / "moved", permuted(BASE), 300)
    made = recipe("fine", method=method)
    expected = merged(tmp_path / "expected", made, pair)
    found = merged(tmp_path / "found", made, {**pair, "fine": moved})
    one, other = load_file(expected / "model.safetensors"), load_file(found / "model.safetensors")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert ids_by_token(found) == BASE.get_vocab()


def test_in_the_sources_order_the_merge_gives_each_token_the_same_logit(pair, tmp_path):
    moved = rewritten(pair["fine"], tmp_path / "moved", permuted(BASE), 300)
    made = recipe("fine")
    expected = logits_by_token(merged(tmp_path / "expected", made, pair), TEXT[0])
    folders = {**pair, "fine": moved}
    out = merged(tmp_path / "found", made, folders, Vocabulary("fine"))
    found = logits_by_token(out, TEXT[0])
    assert ids_by_token(out) == permuted(BASE).get_vocab()
    assert found.keys() == expected.keys()
    for token, logit in expected.items():
        assert torch.allclose(logit, found[token], atol=1e-6), token
    config = json.loads((out / "config.json").read_text())
    assert config["eos_token_id"] == permuted(BASE).token_to_id("</s>")
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation["eos_token_id"] == config["eos_token_id"]


def test_a_padded_vocabulary_merges_with_an_unpadded_one(pair, tmp_path):
    tie = json.loads((pair["base"] / "config.json").read_text())["tie_word_embeddings"]
    fine = load_file(pair["fine"] / "model.safetensors")
    for name, base in (("large", pair["base"]), ("small", pair["base"])):
        rows = 320 if name == "large" else 300
        write(tmp_path / name, BASE, rows=rows, tie_word_embeddings=tie)
        state = load_file(base / "model.safetensors")
        edit_weights(
            tmp_path / name,
            lambda own, state=state: {
                n: torch.cat([t, own[n][len(t) :]]) if len(own[n]) > len(t) else t
                for n, t in state.items()
            },
        )
    expected = load_file(merged(tmp_path / "a", recipe("fine"), pair) / "model.safetensors")
    padded = merged(tmp_path / "b", recipe("fine"), {**pair, "base": tmp_path / "large"})
    found = load_file(padded / "model.safetensors")
    assert json.loads((padded / "config.json").read_text())["vocab_size"] == 320
    own = load_file(tmp_path / "large/model.safetensors")
    for name, tensor in expected.items():
        assert torch.equal(found[name][: len(tensor)], tensor), name
        assert torch.equal(found[name][len(tensor) :], own[name][len(tensor) :]), name
    cut = merged(
        tmp_path / "c", recipe("large"), {"base": pair["fine"], "large": tmp_path / "large"}
    )
    assert load_file(cut / "model.safetensors")[EMBEDDING].shape == fine[EMBEDDING].shape
    load(padded)
    load(cut)


def test_tokens_that_one_source_added_keep_their_row_in_a_union(pair, tmp_path):
    tie = HEAD not in load_file(pair["base"] / "model.safetensors")
    left, right = (
        with_added(BASE, "<|left|>", "<|both|>"),
        with_added(BASE, "<|both|>", "<|right|>"),
    )
    folders = {
        **pair,
        "left": write(tmp_path / "left", left, seed=2, tie_word_embeddings=tie),
        "right": write(tmp_path / "right", right, seed=3, tie_word_embeddings=tie),
    }
    made = recipe("fine", "left", "right")
    out = merged(tmp_path / "out", made, folders, Vocabulary("union"))
    ids = ids_by_token(out)
    assert {t: ids[t] for t in BASE.get_vocab()} == BASE.get_vocab()
    stored = {n: load_file(f / "model.safetensors") for n, f in folders.items()}
    rows = load_file(out / "model.safetensors")
    for name in {EMBEDDING, HEAD} & rows.keys():
        for token, owner, tokenizer in (("<|left|>", "left", left), ("<|right|>", "right", right)):
            row = stored[owner][name][tokenizer.token_to_id(token)]
            assert torch.equal(rows[name][ids[token]], row), token
        both = [
            stored["left"][name][left.token_to_id("<|both|>")],
            stored["right"][name][right.token_to_id("<|both|>")],
        ]
        mean = (both[0].double() + both[1].double()) / 2
        expected = mean + sum(0.5 * (b.double() - mean) for b in both)
        assert torch.allclose(rows[name][ids["<|both|>"]].double(), expected, atol=1e-6)


def test_a_union_loads_and_reads_every_sources_tokens(pair, tmp_path):
    tie = HEAD not in load_file(pair["base"] / "model.safetensors")
    other = with_added(bpe(310, ["zebra quiz jigsaw"] * 3), "<|tool|>")
    folders = {**pair, "fine": write(tmp_path / "other", other, seed=2, tie_word_embeddings=tie)}
    out = merged(
        tmp_path / "out", recipe("fine"), folders, Vocabulary("union", pad_to_multiple_of=64)
    )
    tokenizer, model = AutoTokenizer.from_pretrained(out), load(out)
    assert model.get_input_embeddings().weight.shape[0] % 64 == 0
    assert model.config.vocab_size == model.get_input_embeddings().weight.shape[0]
    for text in (*TEXT, "zebra quiz <|tool|> jigsaw"):
        ids = tokenizer(text, return_tensors="pt").input_ids
        assert tokenizer.decode(ids[0]) == text
        with torch.no_grad():
            assert model(ids).logits.isfinite().all()
    assert tokenizer.convert_tokens_to_ids("<|tool|>") in tokenizer("a <|tool|>").input_ids
    again = tmp_path / "again"
    tokenizer.save_pretrained(again)
    assert AutoTokenizer.from_pretrained(again).get_vocab() == tokenizer.get_vocab()


def test_the_union_with_a_superset_is_the_supersets_own_tokenizer(pair, tmp_path):
    tie = HEAD not in load_file(pair["base"] / "model.safetensors")
    large = write(tmp_path / "large", bpe(330), seed=2, tie_word_embeddings=tie)
    folders = {**pair, "fine": large}
    out = merged(tmp_path / "out", recipe("fine"), folders, Vocabulary("union"))
    assert (out / "tokenizer.json").read_bytes() == (large / "tokenizer.json").read_bytes()
    assert load(out).config.vocab_size == 330
    _, warnings = opened(folders)
    assert any("superset: adds 30 token(s)" in w and "that of base" in w for w in warnings)


def test_rows_that_nobody_has_are_never_the_likeliest_token(pair, tmp_path):
    out = merged(tmp_path / "out", recipe("fine"), pair, Vocabulary(pad_to_multiple_of=128))
    model = load(out)
    with torch.no_grad():
        logits = model(torch.arange(50)[None]).logits
    assert logits.shape[-1] == 384
    assert (logits.argmax(-1) < 300).all()


def test_different_vocabularies_are_refused_with_what_would_help(pair, tmp_path):
    other = write(tmp_path / "other", bpe(300, ["zebra quiz jigsaw"]), seed=2)
    with pytest.raises(PreflightError, match="a union can be built: `tokenizer: union`"):
        opened({**pair, "fine": other})


def heads(folder: Path, tie: bool) -> None:
    """Save a model's head as its embedding, or the other way round."""
    edit_json(folder / "config.json", tie_word_embeddings=tie)
    if tie:
        edit_weights(folder, lambda s: {n: t for n, t in s.items() if n != HEAD})
    else:
        edit_weights(folder, lambda s: {**s, HEAD: s[EMBEDDING].clone()})


def tied_pair(tmp_path: Path) -> dict[str, Path]:
    return {
        "base": write(tmp_path / "base", BASE, tie_word_embeddings=True),
        "fine": write(tmp_path / "fine", BASE, seed=1, tie_word_embeddings=True),
    }


def test_an_untied_head_equal_to_its_embedding_is_as_good_as_tied(tmp_path):
    pair = tied_pair(tmp_path)
    expected = merged(tmp_path / "expected", recipe("fine"), pair)
    heads(pair["fine"], tie=False)
    out = merged(tmp_path / "out", recipe("fine"), pair)
    assert load_file(out / "model.safetensors").keys() == (
        load_file(expected / "model.safetensors").keys()
    )
    model = load(out)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is True


def test_a_head_of_its_own_unties_a_tied_base(tmp_path):
    pair = tied_pair(tmp_path)
    heads(pair["fine"], tie=False)
    edit_weights(pair["fine"], lambda s: {**s, HEAD: s[HEAD] + 0.25})
    checkpoints, warnings = opened(pair)
    assert any("the merged model has a separate head" in w for w in warnings)
    out = tmp_path / "out"
    merge_to_folder(recipe("fine"), checkpoints, out)
    base, fine = (load_file(pair[n] / "model.safetensors") for n in ("base", "fine"))
    rows = load_file(out / "model.safetensors")
    assert torch.allclose(rows[HEAD], (base[EMBEDDING] + fine[HEAD]) / 2, atol=1e-6)
    assert torch.allclose(rows[EMBEDDING], (base[EMBEDDING] + fine[EMBEDDING]) / 2, atol=1e-6)
    model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.lm_head.weight is not model.model.embed_tokens.weight


def test_a_tied_source_of_an_untied_base_brings_its_embedding_as_its_head(tmp_path):
    pair = tied_pair(tmp_path)
    heads(pair["base"], tie=False)
    edit_weights(pair["base"], lambda s: {**s, HEAD: s[HEAD] + 0.25})
    out = merged(tmp_path / "out", recipe("fine"), pair)
    base, fine = (load_file(pair[n] / "model.safetensors") for n in ("base", "fine"))
    rows = load_file(out / "model.safetensors")
    assert torch.allclose(rows[HEAD], (base[HEAD] + fine[EMBEDDING]) / 2, atol=1e-6)


@pytest.mark.sample(3)
@pytest.mark.parametrize("choice", [Vocabulary(), Vocabulary("union"), Vocabulary("fine")])
def test_the_live_model_and_the_exported_folder_have_the_same_bits(choice, pair, tmp_path):
    tie = HEAD not in load_file(pair["base"] / "model.safetensors")
    other = permuted(with_added(BASE, "<|tool|>"))
    folders = {**pair, "fine": write(tmp_path / "other", other, seed=2, tie_word_embeddings=tie)}
    checkpoints, _ = opened(folders, choice)
    config = AutoConfig.from_pretrained(checkpoints["base"].assets)
    live = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    made = recipe("fine", method="ties")
    ResidentEngine(checkpoints).merge_into(live, made)
    merge_to_folder(made, checkpoints, tmp_path / "out")
    exported = load(tmp_path / "out").state_dict()
    assert exported.keys() == live.state_dict().keys()
    for name, tensor in live.state_dict().items():
        assert torch.equal(tensor, exported[name]), name


def test_another_dtype_is_rounded_once(pair, tmp_path):
    moved = rewritten(pair["fine"], tmp_path / "moved", permuted(BASE), 300)
    edit_weights(moved, lambda s: {n: t.bfloat16() for n, t in s.items()})
    edit_weights(pair["fine"], lambda s: {n: t.bfloat16() for n, t in s.items()})
    expected = merged(tmp_path / "a", recipe("fine"), pair)
    found = merged(tmp_path / "b", recipe("fine"), {**pair, "fine": moved})
    one, other = load_file(expected / "model.safetensors"), load_file(found / "model.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert {t.dtype for t in other.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("choice", "template"),
    [
        (Vocabulary(), "base's"),
        (Vocabulary("fine"), "fine's"),
        (Vocabulary("fine", "base"), "base's"),
        (Vocabulary("base", "fine"), "fine's"),
        (Vocabulary("union", "fine"), "fine's"),
    ],
)
def test_the_chat_template_is_the_tokenizers_unless_it_is_chosen(choice, template, tmp_path):
    folders = {
        "base": write(tmp_path / "base", BASE, template="base's"),
        "fine": write(tmp_path / "fine", with_added(BASE, "<|im|>"), seed=1, template="fine's"),
    }
    out = merged(tmp_path / "out", recipe("fine"), folders, choice)
    assert AutoTokenizer.from_pretrained(out).chat_template == template
    _, warnings = opened(folders, choice)
    other = "fine" if template == "base's" else "base"
    assert f"{other}: its chat template differs from the merged model's" in warnings


def test_models_of_one_vocabulary_come_back_as_they_are(pair):
    checkpoints = {name: open_checkpoint(folder) for name, folder in pair.items()}
    assert align(checkpoints, "base").checkpoints is checkpoints


def test_what_was_written_for_the_result_goes_with_the_checkpoints(pair):
    checkpoints, _ = opened(pair, Vocabulary(pad_to_multiple_of=128))
    assets = checkpoints["base"].assets
    assert json.loads((assets / "config.json").read_text())["vocab_size"] == 384
    del checkpoints
    gc.collect()
    assert not assets.exists()


def test_other_layers_are_refused_whatever_the_vocabulary(pair, tmp_path):
    other = write(tmp_path / "deep", permuted(BASE), num_hidden_layers=4)
    with pytest.raises(PreflightError, match="num_hidden_layers: 4 in fine, 3 in base"):
        opened({**pair, "fine": other}, Vocabulary("union"))


def test_a_recipe_file_names_the_tokenizer(pair, tmp_path):
    from rich.console import Console

    tie = HEAD not in load_file(pair["base"] / "model.safetensors")
    write(tmp_path / "tool", with_added(BASE, "<|tool|>"), seed=1, tie_word_embeddings=tie)
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "method: task_arithmetic\nbase: base\nsources: {tool: {weight: 0.5}}\n"
        "models: {base: ./base, tool: ./tool}\ntokenizer: union\npad_to_multiple_of: 8\n"
    )
    merge_file(file, tmp_path / "out", Console(file=io.StringIO()))
    assert load(tmp_path / "out").config.vocab_size == 304
    assert "tokenizer: union" in (tmp_path / "out/recipe.yaml").read_text()


def test_a_live_model_of_other_assets_is_made_without_weights(tmp_path):
    from automerge.checkpoints import open_together
    from automerge.worker.worker import load_model

    pair = tied_pair(tmp_path)
    heads(pair["fine"], tie=False)
    edit_weights(pair["fine"], lambda s: {**s, HEAD: s[HEAD] + 0.25})
    checkpoints = open_together(pair, "base")
    live = load_model(pair["base"], checkpoints["base"].assets, torch.float32)
    ResidentEngine(checkpoints).merge_into(live, recipe("fine"))
    merge_to_folder(recipe("fine"), checkpoints, tmp_path / "out")
    exported = load(tmp_path / "out").state_dict()
    assert all(torch.equal(t, exported[name]) for name, t in live.state_dict().items())
    plain = open_together({"base": pair["base"]}, "base")["base"].assets
    assert plain == pair["base"]
    assert load_model(pair["base"], plain, "auto").dtype == torch.float32


def test_tokenizers_that_spell_otherwise_are_refused_without_offering_a_union(pair, tmp_path):
    words = Tokenizer(
        models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3}, unk_token="<unk>")
    )
    other = write(tmp_path / "words", words, rows=300, seed=2)
    with pytest.raises(PreflightError, match="so there is no union"):
        opened({"base": write(tmp_path / "own", BASE), "fine": other})
