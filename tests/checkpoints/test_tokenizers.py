"""A tokenizer is what transformers loads, in whatever files; absence is not agreement."""

from __future__ import annotations

import io
import json

import pytest
import sentencepiece
from transformers import AutoTokenizer

from automerge.checkpoints import align, open_checkpoint
from automerge.checkpoints.vocabularies.tokenizers import read_tokenizer, same_tokenizer, vocabulary
from automerge.checkpoints.vocabularies.vocabulary import (
    compare_tokenizers,
    read_tokens,
    relate,
    relations,
)
from automerge.errors import PreflightError
from automerge.recipe import Vocabulary
from tests.checkpoints.vocabularies import bpe, edit_json, write

WORDS = ["alpha", "beta", "gamma", "delta", "eps"]


def pieces(words=WORDS, kind="bpe") -> bytes:
    data = [" ".join(words[i:] + words[:i]) for i in range(len(words))] * 20
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(data),
        model_writer=buffer,
        vocab_size=40,
        model_type=kind,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return buffer.getvalue()


GPT2 = {"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}
BERT = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nab\ncd\n"
FORMS = {
    "llama": {"tokenizer.model": pieces()},
    "gemma": {"tokenizer.model": pieces()},
    "t5": {"spiece.model": pieces(kind="unigram")},
    "xlm-roberta": {"sentencepiece.bpe.model": pieces(kind="unigram")},
    "deberta-v2": {"spm.model": pieces(kind="unigram")},
    "bert": {"vocab.txt": BERT},
    "gpt2": {"vocab.json": json.dumps(GPT2), "merges.txt": "#version: 0.2\na b\n"},
    "qwen2": {"vocab.json": json.dumps(GPT2), "merges.txt": "#version: 0.2\na b\n"},
    "whisper": {
        "vocab.json": json.dumps(GPT2),
        "merges.txt": "#version: 0.2\na b\n",
        "normalizer.json": "{}",
    },
    "marian": {
        "vocab.json": json.dumps({"</s>": 0, "<unk>": 1, "\u2581a": 2, "<pad>": 3}),
        "source.spm": pieces(kind="unigram"),
        "target.spm": pieces(kind="unigram"),
    },
}


def folder_with(folder, files, kind="llama", **config):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name).write_bytes(data)
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.filterwarnings("ignore:Recommended")
@pytest.mark.parametrize("kind", FORMS)
def test_older_forms_have_the_ids_that_transformers_loads(kind, tmp_path):
    folder = folder_with(tmp_path / kind, FORMS[kind], kind)
    content = read_tokenizer(folder)
    assert content is not None
    assert vocabulary(content) == AutoTokenizer.from_pretrained(folder).get_vocab()


ADDED = {"<x>": 40, "<y>": 41}
DECODER = {str(i): {"content": token, "special": True} for token, i in ADDED.items()}


def test_tokens_that_files_beside_a_vocabulary_add_are_among_its_tokens(tmp_path):
    slow = {"tokenizer.model": pieces(), "added_tokens.json": json.dumps(ADDED)}
    older = folder_with(tmp_path / "older", slow)
    newer = folder_with(tmp_path / "newer", {"tokenizer.model": pieces()}, pad_token="<pad>")
    edit_json(newer / "tokenizer_config.json", added_tokens_decoder=DECODER)
    for folder in (older, newer):
        loaded = AutoTokenizer.from_pretrained(folder).get_vocab()
        assert loaded["<y>"] == 41
        assert vocabulary(read_tokenizer(folder)) == loaded
    assert vocabulary(read_tokenizer(newer))["<pad>"] == 42


def test_the_same_holds_beside_a_tokenizer_json(tmp_path):
    folder = write(tmp_path / "m", bpe(300))
    decoder = {"300": {"content": "<x>", "special": True}}
    edit_json(folder / "tokenizer_config.json", added_tokens_decoder=decoder, pad_token="[PAD]")
    loaded = AutoTokenizer.from_pretrained(folder).get_vocab()
    assert loaded["<x>"] == 300
    assert vocabulary(read_tokenizer(folder)) == loaded


@pytest.mark.parametrize("number", [2**62, -1])
@pytest.mark.parametrize("form", [{"tokenizer.model": pieces()}, {"tokenizer.json": "{}"}])
def test_ids_that_no_embedding_has_are_refused_by_name(form, number, tmp_path):
    added = {"added_tokens.json": json.dumps({"<far>": number})}
    with pytest.raises(PreflightError, match=rf"'<far>' {number}"):
        read_tokenizer(folder_with(tmp_path / "m", form | added))


def test_a_declared_id_that_is_not_the_loaded_one_is_refused(tmp_path):
    folder = write(tmp_path / "m", bpe(300))
    edit_json(folder / "tokenizer_config.json", added_tokens_decoder={"307": {"content": "<x>"}})
    with pytest.raises(PreflightError, match="declared with id 307, but gets 300"):
        read_tokenizer(folder)


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer.model": b"garbage"},
        {"tekken.json": "{}"},
        {"vocab.json": "[", "merges.txt": ""},
        {"unheard_of.model": b"\0\1"},
    ],
)
def test_what_cannot_be_read_is_refused_and_never_the_same(files, tmp_path):
    folder = folder_with(tmp_path / "m", files)
    with pytest.raises(PreflightError, match="its tokens cannot be compared"):
        read_tokenizer(folder)
    assert same_tokenizer(folder, folder_with(tmp_path / "same", files))
    assert not same_tokenizer(folder, folder_with(tmp_path / "none", {}))


def test_a_tiktoken_file_is_read_without_tiktoken(tmp_path):
    one = read_tokens(folder_with(tmp_path / "one", {"qwen.tiktoken": "IQ== 0\nIg== 1\n"}))
    other = read_tokens(folder_with(tmp_path / "other", {"qwen.tiktoken": "Ig== 0\nIQ== 1\n"}))
    assert dict(one.ids) == {"!": 0, '"': 1}
    assert relate(one, other, 2, 2).kind == "permuted"


def test_no_code_and_no_file_out_of_the_folder_is_asked_for(tmp_path):
    folder = folder_with(
        tmp_path / "m",
        {"tokenizer.model": pieces(), "evil.py": "raise SystemExit('ran')"},
        tokenizer_class="EvilTokenizer",
        auto_map={"AutoTokenizer": ["evil.EvilTokenizer", None]},
        vocab_file="/etc/passwd",
        chat_template_path="/etc/passwd",
    )
    assert len(vocabulary(read_tokenizer(folder))) == 40


def test_both_forms_of_one_tokenizer_are_the_same_tokens(tmp_path):
    slow = folder_with(tmp_path / "slow", {"tokenizer.model": pieces()})
    fast = folder_with(tmp_path / "fast", {})
    AutoTokenizer.from_pretrained(slow).backend_tokenizer.save(str(fast / "tokenizer.json"))
    folder_with(tmp_path / "other", {"tokenizer.model": pieces([*"vwxyz"])})
    tokens = {name: read_tokens(tmp_path / name) for name in ("slow", "fast", "other")}
    assert relate(tokens["slow"], tokens["fast"], 40, 40).kind == "identical"
    # The same rules in the words of older versions.
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    edit_json(fast / "tokenizer.json", normalizer=spaces, pre_tokenizer=None)
    assert relate(tokens["slow"], read_tokens(fast), 40, 40).kind == "identical"
    words = {"type": "WordLevel", "unk_token": "<unk>", "vocab": dict(tokens["slow"].ids)}
    edit_json(fast / "tokenizer.json", model=words)
    assert relate(tokens["slow"], read_tokens(fast), 40, 40).kind == "different"
    assert not relate(tokens["other"], tokens["fast"], 40, 40).mergeable


def test_two_models_without_a_tokenizer_are_not_known_to_agree(tmp_path):
    models = opened(
        base=write(tmp_path / "base", None), fine=write(tmp_path / "fine", None, seed=1)
    )
    assert not same_tokenizer(tmp_path / "base", tmp_path / "fine")
    assert relations(models, "base")["fine"].kind == "unknown"
    _, [warning] = compare_tokenizers(tmp_path / "base", tmp_path / "fine")
    assert "neither it nor the base has a tokenizer" in warning
    for folder in (tmp_path / "base", tmp_path / "fine"):
        (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    assert compare_tokenizers(tmp_path / "base", tmp_path / "fine") == ([], [])


def opened(**folders):
    return {name: open_checkpoint(folder) for name, folder in folders.items()}


def with_pieces(folder, blob, rows, seed=0, **added):
    write(folder, None, rows=rows, seed=seed)
    (folder / "tokenizer.model").write_bytes(blob)
    (folder / "added_tokens.json").write_text(json.dumps(added))
    return folder


def test_a_chosen_tokenizer_without_tokenizer_json_is_the_results(tmp_path):
    models = opened(
        base=with_pieces(tmp_path / "base", pieces(), 40),
        grown=with_pieces(tmp_path / "grown", pieces(), 42, 1, **ADDED),
    )
    found = align(models, "base", Vocabulary("grown"))
    assets = found.checkpoints["base"].assets
    assert found.checkpoints["base"].config["vocab_size"] == 42
    assert AutoTokenizer.from_pretrained(assets).get_vocab()["<y>"] == 41
    assert (assets / "tokenizer.model").read_bytes() == pieces()


def test_unrelated_tokenizers_without_tokenizer_json_are_refused(tmp_path):
    models = opened(
        base=write(tmp_path / "base", bpe(300)),
        other=with_pieces(tmp_path / "other", pieces(), 300),
    )
    assert relations(models, "base")["other"].kind == "different"
    with pytest.raises(PreflightError, match="vocabularies differ"):
        align(models, "base")


def test_a_base_without_a_tokenizer_can_be_given_one(tmp_path):
    models = opened(
        base=write(tmp_path / "base", None), fine=write(tmp_path / "fine", bpe(300), seed=1)
    )
    assert relations(models, "base")["fine"].kind == "unknown"
    found = align(models, "base", Vocabulary("fine"))
    base = found.checkpoints["base"]
    assert (base.assets / "tokenizer.json").exists()
    name = "model.embed_tokens.weight"
    assert base.read(name).equal(models["base"].read(name))
    assert any("the base has no tokenizer" in warning for warning in found.warnings)


def test_tokens_beyond_the_rows_of_the_embedding_are_said(tmp_path):
    folder = write(tmp_path / "m", bpe(300))
    edit_json(folder / "tokenizer_config.json", pad_token="[PAD]")
    found = align(opened(base=folder, same=write(tmp_path / "s", bpe(300), seed=1)), "base")
    assert any("base: 1 token(s) of its tokenizer have no row" in w for w in found.warnings)
    assert found.checkpoints["base"].config["vocab_size"] == 300
