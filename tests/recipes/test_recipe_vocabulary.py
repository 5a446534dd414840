"""A recipe's keys about the vocabulary: read, written, checked where they stand."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from automerge.config.recipe_file import read_recipe, recipe_text
from automerge.errors import ConfigError
from automerge.recipe import Recipe, Vocabulary, uniform_average

RECIPE = uniform_average(["maths", "code"])
CHOICES = [
    Vocabulary(),
    Vocabulary("union"),
    Vocabulary("code", "base", 64),
    Vocabulary("base", "maths"),
]


@pytest.mark.parametrize("vocabulary", CHOICES)
def test_what_is_written_is_read_back(vocabulary, tmp_path):
    made = replace(RECIPE, vocabulary=vocabulary)
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe_text(made, {}))
    assert read_recipe(file).recipe == made
    assert Recipe.from_plain(made.plain()) == made
    assert pickle.loads(pickle.dumps(made)) == made


def test_the_default_leaves_ids_of_recipes_as_they_were():
    assert RECIPE.plain().keys() == {"method", "sources"}
    assert len({replace(RECIPE, vocabulary=v).id for v in CHOICES}) == len(CHOICES)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tokenizer: cod", ":3:12: unknown tokenizer 'cod'; did you mean 'code'"),
        ("tokenizer: 3", ":3:12: expected text, got 3"),
        ("chat_template: union", ":3:16: unknown chat_template 'union'"),
        ("pad_to_multiple_of: 0", ":3:21: expected a whole number from 1"),
        ("pad_to_multiple_of: true", ":3:21: expected a whole number from 1"),
        ("pad_to_multiple_of: 1e9", ":3:21: expected a whole number from 1"),
        ("tokeniser: union", ":3:1: unknown key 'tokeniser'; did you mean 'tokenizer'"),
    ],
)
def test_what_cannot_be_chosen_is_a_fault_where_it_stands(line, message, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(f"method: linear\nsources: {{maths: {{}}, code: {{}}}}\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        read_recipe(file)
    assert message in str(caught.value)


def test_a_study_has_one_vocabulary(tmp_path: Path):
    file = tmp_path / "recipe.yaml"
    file.write_text("method: linear\nsources: {maths: {}, code: {}}\ntokenizer: union\n")
    with pytest.raises(ConfigError, match=r":3:12: a study's models share the base's vocabulary"):
        read_recipe(file).among({"maths": "/m", "code": "/c"})
