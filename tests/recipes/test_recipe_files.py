"""Recipe files: what is written is read back, and every fault has its place."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from automerge.config.recipe_file import read_recipe, write_recipe
from automerge.errors import ConfigError
from automerge.recipe import Profile, Recipe, RecipeSource
from tests.mergekit.test_mergekit import TIES
from tests.recipe_strategies import recipes

OURS = """\
recipe: 1
name: my-merge
models: {base: org/base, math: ./math, code: org/code@v1}
method: ties
base: base
sources:
  math: {weight: 0.5, density: {attention: [0.1, 0.3], default: 0.2}}
  code: {weight: [0, 1]}
parameters: {lambda: 1.0, normalize: false}
seed: 3
dtype: bfloat16
"""


def read(text: str, folder):
    (folder / "math").mkdir(exist_ok=True)
    (folder / "r.yaml").write_text(text)
    return read_recipe(folder / "r.yaml")


def test_methods_and_switches_by_selector_are_read_and_written(tmp_path):
    methods = "method: {attention: linear, depth<0.5: dare_ties, default: ties}"
    text = OURS.replace("method: ties", methods)
    text = text.replace("normalize: false", "normalize: {attention: true, default: false}")
    recipe = read(text, tmp_path).recipe
    assert recipe.methods == (("attention", "linear"), ("depth<0.5", "dare_ties"))
    assert recipe.method == "ties"
    assert recipe.knobs["normalize"] == Profile.of({"attention": 1.0, "default": 0.0})
    write_recipe(recipe, {}, tmp_path / "again.yaml")
    assert read_recipe(tmp_path / "again.yaml").recipe == recipe
    assert Recipe.from_plain(recipe.plain()) == recipe
    assert pickle.loads(pickle.dumps(recipe)) == recipe


def test_a_recipe_file_is_read(tmp_path):
    file = read(OURS, tmp_path)
    assert file.name == "my-merge"
    assert file.models == {
        "base": "org/base",
        "math": str(tmp_path / "math"),
        "code": "org/code@v1",
    }
    assert file.recipe == Recipe(
        "ties",
        (
            RecipeSource(
                "math",
                {
                    "weight": Profile.of(0.5),
                    "density": Profile.of({"attention": [0.1, 0.3], "default": 0.2}),
                },
            ),
            RecipeSource("code", {"weight": Profile.of([0, 1])}),
        ),
        base="base",
        knobs={"lambda": Profile.of(1.0), "normalize": False},
        seed=3,
        dtype="bfloat16",
    )


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(recipes(), st.integers(0, 2**31), st.booleans())
def test_what_is_written_is_read_back(tmp_path, recipe, seed, named):
    recipe = Recipe(
        recipe.method, recipe.sources, recipe.base, recipe.knobs, seed=seed, dtype=recipe.dtype
    )
    models = {name: f"org/{name}@main" for name in recipe.models}
    write_recipe(recipe, models, tmp_path / "out.yaml", "a name" if named else None)
    file = read_recipe(tmp_path / "out.yaml")
    assert file.recipe == recipe
    assert file.recipe.id == recipe.id
    assert file.models == models
    assert file.name == ("a name" if named else "out")


def test_names_that_look_like_numbers_survive(tmp_path):
    recipe = Recipe("ties", (RecipeSource("1e3", {}), RecipeSource("007", {})), base="2024")
    write_recipe(recipe, {name: f"org/{name}" for name in recipe.models}, tmp_path / "r.yaml")
    assert read_recipe(tmp_path / "r.yaml").recipe == recipe


def test_models_of_a_study_need_no_paths(tmp_path):
    write_recipe(Recipe("linear", (RecipeSource("math", {}),)), {}, tmp_path / "r.yaml")
    file = read_recipe(tmp_path / "r.yaml")
    assert file.models == {}
    assert file.among({"base": "org/base", "math": "org/math"}) == file.recipe
    with pytest.raises(ConfigError, match="no model is defined for 'math'"):
        file.alone()


def test_a_recipe_is_renamed_to_the_models_of_a_study(tmp_path):
    file = read(OURS, tmp_path)
    study = {"base": "org/base", "m": str(tmp_path / "math"), "c": "org/code@v1"}
    renamed = file.among(study)
    assert renamed.base == "base"
    assert [source.name for source in renamed.sources] == ["m", "c"]
    assert [s.knobs for s in renamed.sources] == [s.knobs for s in file.recipe.sources]
    with pytest.raises(ConfigError, match=r"r.yaml:3:9: the recipe's model 'code' \(org/code@v1\)"):
        file.among({**study, "c": "org/code@v2"})


def test_a_recipe_that_names_all_its_models_stands_alone(tmp_path):
    assert set(read(OURS, tmp_path).alone()) == {"base", "math", "code"}


def test_mergekit_files_are_read_too(tmp_path):
    (tmp_path / "m.yaml").write_text(TIES)
    file = read_recipe(tmp_path / "m.yaml")
    assert (file.name, file.recipe.method) == ("m", "ties")
    assert file.notes


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("recipe: 1", "recipe: 2", ":1:9: expected recipe: 1, got 2"),
        ("method: ties", "methd: ties", ":4:1: unknown key 'methd'; did you mean 'method'?"),
        ("method: ties", "methd: ties", ":1:1: missing key 'method'"),
        ("method: ties", "method: tis", ":4:9: unknown method 'tis'; did you mean 'ties'?"),
        ("method: ties", "method: 3", ":4:9: expected text, got 3"),
        ("base: base\n", "", ":4:9: ties merges task vectors and needs a base model"),
        ("./math", "./maths", ":3:32: no such folder"),
        ("./math", "[a]", ":3:32: expected a folder or a hub id"),
        ("weight: 0.5", "wieght: 0.5", ":7:18: ties has no 'wieght'; did you mean 'weight'?"),
        ("weight: 0.5", "lambda: 0.5", ":7:18: 'lambda' is a knob of the whole recipe"),
        ("weight: 0.5", "weight: true", ":7:18: expected a number or a list of numbers, got True"),
        ("weight: 0.5", "weight: [0.5, x]", ":7:18: expected a number or a list of numbers"),
        ("weight: 0.5", "weight: []", ":7:18: expected a number or a list of numbers, got []"),
        ("weight: 0.5", "weight: {}", ":7:18: expected a number, got nothing"),
        ("method: ties", "method: {mlp: ties}", ":4:9: expected a method for `default`"),
        ("method: ties", "method: {mpl: ties, default: ties}", ":4:10: unknown selector 'mpl'"),
        ("method: ties", "method: {mlp: 3, default: ties}", ":4:15: expected a method's name"),
        ("method: ties", "method: {mlp: tise, default: ties}", ":4:15: unknown method 'tise'"),
        ("default: 0.2", "defualt: 0.2", ":7:56: unknown selector 'defualt' (a pattern"),
        ("default: 0.2", "default: 1.2", ":7:32: density must lie in [0, 1]; got 1.2"),
        ("normalize: false", "normalize: 2", ":9:38: normalize is true or false; got 2"),
        ("seed: 3", "seed: -3", ":10:7: expected a whole number from 0, got -3"),
        ("dtype: bfloat16", "dtype: bfloat61", ":11:8: unknown dtype 'bfloat61'; did you mean 'b"),
        ("  code: {weight: [0, 1]}\n", "", ":3:40: the recipe does not use 'code'"),
        ("  code: {weight: [0, 1]}\n", "  base: {}\n", "'base' is the base and a source"),
    ],
)
def test_what_is_wrong_is_located(old, new, message, tmp_path):
    assert old in OURS
    with pytest.raises(ConfigError) as caught:
        read(OURS.replace(old, new), tmp_path)
    assert message in str(caught.value)


def test_all_faults_come_together(tmp_path):
    text = OURS.replace("seed: 3", "seed: x").replace("[0, 1]", "[0, y]").replace("name:", "nme:")
    with pytest.raises(ConfigError) as caught:
        read(text, tmp_path)
    assert len(caught.value.faults) == 3
