"""mergekit's tokenizer keys mean the same here, or are refused where they are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from automerge.files.yaml_file import load_yaml
from automerge.mergekit.parameters import Reader
from automerge.mergekit.tokenizer import (
    TEMPLATE_NOTE,
    UNION_NOTE,
    check_vocabulary,
    read_vocabulary,
    vocabulary_notes,
    write_vocabulary,
)
from automerge.recipe import Vocabulary, uniform_average

REFERENCES = {"org/maths": "maths", "org/base": "base"}


def read(text: str, tmp_path: Path) -> tuple[Vocabulary, Reader]:
    path = tmp_path / "mergekit.yaml"
    path.write_text(text or "{}")
    reader = Reader(load_yaml(path))
    return read_vocabulary(reader, lambda _, model: REFERENCES[str(model)]), reader


@pytest.mark.parametrize(
    ("text", "vocabulary"),
    [
        ("dtype: float32", Vocabulary()),
        ("tokenizer_source: base", Vocabulary()),
        ("tokenizer_source: union", Vocabulary("union")),
        ("tokenizer_source: org/maths", Vocabulary("maths")),
        ("tokenizer_source: org/base", Vocabulary("base")),
        ("tokenizer: {source: base}", Vocabulary()),
        ("tokenizer: {}", Vocabulary("union")),
        (
            "tokenizer: {source: org/maths, pad_to_multiple_of: 64}",
            Vocabulary("maths", pad_to_multiple_of=64),
        ),
        ("tokenizer: {source: union, tokens: {}}", Vocabulary("union")),
        ("chat_template: auto", Vocabulary(chat_template="auto")),
        ("chat_template: '{{ messages }}'", Vocabulary(chat_template="{{ messages }}")),
        ("tokenizer: {}\nchat_template: auto", Vocabulary("union", "auto")),
    ],
)
def test_what_can_be_expressed_is_read(text, vocabulary, tmp_path):
    found, reader = read(text, tmp_path)
    assert reader.faults == []
    assert found == vocabulary


@pytest.mark.parametrize(
    "vocabulary",
    [
        Vocabulary(),
        Vocabulary("union"),
        Vocabulary("maths"),
        Vocabulary("base", pad_to_multiple_of=8),
        Vocabulary("maths", pad_to_multiple_of=8),
        Vocabulary(chat_template="auto"),
        Vocabulary("union", "{% for m in messages %}{{ m.content }}{% endfor %}", 8),
    ],
)
def test_what_is_written_is_read_back(vocabulary, tmp_path):
    from automerge.files.yaml_file import dump_yaml

    names = {name: reference for reference, name in REFERENCES.items()}
    written = write_vocabulary(vocabulary, names.__getitem__)
    assert read(dump_yaml(written) if written else "", tmp_path)[0] == vocabulary


@pytest.mark.parametrize("vocabulary", [Vocabulary("union"), Vocabulary("base", None, 8)])
def test_mergekit_takes_what_is_written(vocabulary):
    config = pytest.importorskip("mergekit.config")
    written = write_vocabulary(vocabulary, str)
    read = config.MergeConfiguration.model_validate(
        {
            "merge_method": "linear",
            "models": [{"model": "org/maths", "parameters": {"weight": 1}}],
            **written,
        }
    )
    source = read.tokenizer_source or read.tokenizer.source
    assert source == vocabulary.tokenizer


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chat_template: chatml", ":1:16: mergekit's own template"),
        ("chat_template: maths", ":1:16: expected `auto` or a Jinja template"),
        ("tokenizer: {tokens: {<s>: {source: org/maths}}}", ":1:13: choosing rows of single"),
        ("tokenizer: union", ":1:12: expected a mapping"),
        ("tokenizer: {sorce: base}", ":1:13: unknown key 'sorce'; did you mean 'source'"),
        ("tokenizer: {pad_to_multiple_of: 0}", ":1:33: expected a whole number from 1, got 0"),
        ("tokenizer_source: base\ntokenizer: {}", ":2:1: expected either"),
    ],
)
def test_what_cannot_is_refused_where_it_is_written(text, message, tmp_path):
    _, reader = read(text, tmp_path)
    assert len(reader.faults) == 1
    assert message in str(reader.faults[0])


def test_the_tokenizer_is_of_a_model_that_is_merged(tmp_path):
    from dataclasses import replace

    vocabulary, reader = read("tokenizer_source: org/maths", tmp_path)
    check_vocabulary(reader, replace(uniform_average(["maths"]), vocabulary=vocabulary))
    assert not reader.faults
    check_vocabulary(reader, replace(uniform_average(["code"]), vocabulary=vocabulary))
    [fault] = reader.faults
    assert "that of a merged model" in fault.message


def test_differences_are_said():
    assert list(vocabulary_notes(Vocabulary())) == []
    assert list(vocabulary_notes(Vocabulary("union", "base"))) == [UNION_NOTE, TEMPLATE_NOTE]
