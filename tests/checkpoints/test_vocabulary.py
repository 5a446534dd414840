"""Vocabularies are classified from the tokenizers themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from automerge.checkpoints import open_checkpoint
from automerge.checkpoints.vocabularies.union import build_union
from automerge.checkpoints.vocabularies.vocabulary import Tokens, parse_tokens, relate, relations
from automerge.errors import PreflightError
from tests.checkpoints.vocabularies import bpe, permuted, with_added, write

BASE = bpe()


def tokens(tokenizer: Tokenizer) -> Tokens:
    return parse_tokens(json.loads(tokenizer.to_str()), Path("tokenizer.json"))


def relation(theirs: Tokenizer, rows: int = 300, ours: Tokenizer = BASE):
    return relate(tokens(ours), tokens(theirs), 300, rows)


@pytest.mark.parametrize(
    ("tokenizer", "rows", "kind", "mergeable"),
    [
        (BASE, 300, "identical", True),
        (BASE, 320, "padded", True),
        (permuted(BASE), 300, "permuted", True),
        (permuted(BASE), 320, "permuted", True),
        (with_added(BASE, "<|tool|>"), 301, "superset", True),
        (bpe(320), 320, "superset", True),
        (permuted(with_added(BASE, "<|tool|>")), 301, "superset", True),
        (bpe(280), 280, "subset", True),
        (with_added(bpe(280), "<|tool|>"), 281, "different", False),
        (bpe(300, ["other words entirely, zebra quiz"]), 300, "different", False),
    ],
)
def test_a_relation_is_named(tokenizer, rows, kind, mergeable):
    found = relation(tokenizer, rows)
    assert (found.kind, found.mergeable) == (kind, mergeable)


def test_each_with_added_tokens_of_its_own_is_different_yet_mergeable():
    found = relation(with_added(BASE, "<|b|>"), ours=with_added(BASE, "<|a|>"))
    assert (found.kind, found.mergeable) == ("different", True)
    assert (found.added, found.lacking) == (("<|b|>",), ("<|a|>",))
    assert "adds 1 token(s) ('<|b|>'), lacks 1 token(s) ('<|a|>')" in str(found)


def test_superset_and_subset_are_each_others_mirror():
    small, large = bpe(280), bpe(320)
    up, down = relation(large, ours=small), relation(small, ours=large)
    assert (up.kind, down.kind) == ("superset", "subset")
    assert up.added == down.lacking
    assert len(up.added) == 40
    assert up.n_shared == down.n_shared == 280


def test_the_same_tokens_cut_by_other_rules_are_different():
    content = json.loads(BASE.to_str())
    content["model"]["merges"].reverse()
    found = relate(tokens(BASE), parse_tokens(content, Path("t")), 300, 300)
    assert (found.kind, found.cut_alike, found.mergeable) == ("different", False, False)


def test_unigram_scores_decide_how_text_is_cut():
    pieces = [("<unk>", 0.0), ("a", -1.0), ("b", -2.0), ("ab", -2.5)]
    ours = Tokenizer(models.Unigram(pieces, unk_id=0))
    moved = Tokenizer(models.Unigram([pieces[0], *reversed(pieces[1:])], unk_id=0))
    other = Tokenizer(models.Unigram([*pieces[:3], ("ab", -9.0)], unk_id=0))
    assert relation(moved, ours=ours).kind == "permuted"
    assert relation(other, ours=ours).kind == "different"


@pytest.mark.parametrize(
    "content",
    [
        '{"added_tokens": [1]}',
        '{"model": {"vocab": [[]]}}',
        '{"model": {"vocab": {"a": "x"}}}',
        f'{{"model": {{"vocab": {{"a": {2**62}}}}}}}',
        '{"model": {"vocab": {"a": -1}}}',
    ],
)
def test_a_file_that_is_no_tokenizer_is_refused(content):
    with pytest.raises(PreflightError, match="here"):
        parse_tokens(json.loads(content), Path("here"))


def test_models_are_compared_by_their_folders(tmp_path):
    folders = {
        "base": write(tmp_path / "base", BASE),
        "same": write(tmp_path / "same", BASE, seed=1),
        "padded": write(tmp_path / "padded", BASE, rows=320),
        "none": write(tmp_path / "none", None),
        "permuted": write(tmp_path / "permuted", permuted(BASE)),
    }
    found = relations({n: open_checkpoint(f) for n, f in folders.items()}, "base")
    kinds = {name: relation.kind for name, relation in found.items()}
    assert kinds == {
        "base": "identical",
        "same": "identical",
        "padded": "padded",
        "none": "unknown",
        "permuted": "permuted",
    }


def test_a_union_keeps_the_bases_ids_and_reads_every_token():
    other = with_added(bpe(300, ["zebra quiz jigsaw"] * 3), "<|tool|>")
    text, ids = build_union({"base": tokens(BASE), "other": tokens(other)}, "base")
    built = Tokenizer.from_str(text)
    assert {t: ids[t] for t in BASE.get_vocab()} == BASE.get_vocab()
    assert ids.keys() == BASE.get_vocab().keys() | other.get_vocab().keys()
    assert sorted(ids.values()) == list(range(len(ids)))
    new = [t for t in other.get_vocab() if t not in BASE.get_vocab()]
    assert "<|tool|>" in new
    for token in new:
        assert built.encode(built.decode([ids[token]], skip_special_tokens=False)).ids == [
            ids[token]
        ]
    assert built.decode(built.encode("zebra größer").ids) == "zebra größer"


def test_tokenizers_that_spell_otherwise_have_no_union():
    words = Tokenizer(models.WordLevel({"<unk>": 0, "the": 1}, unk_token="<unk>"))
    with pytest.raises(PreflightError, match="choose `tokenizer: words`"):
        build_union({"base": tokens(BASE), "words": tokens(words)}, "base")
