"""Recipes with slices: as files, as values, and from the command line."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file

from automerge.commands.merge import merge_file
from automerge.config.recipe_file import read_recipe, recipe_text
from automerge.errors import ConfigError, PreflightError
from automerge.recipe import Profile, Recipe, RecipeSource, Slice
from automerge.session.preflight import open_models, structure_faults
from tests.checkpoints.models import WORDS, llama, perturb, save, tokenizer

STACK = """\
recipe: 1
models: {base: org/base, maths: org/maths, code: org/code}
method: task_arithmetic
base: base
sources:
  maths: {weight: 0.4}
  code: {weight: [0, 1]}
slices:
  - layers: {base: [0, 8], maths: [0, 8]}
  - layers: {base: [4, 16], code: [4, 16], maths: [0, 12]}
    sources:
      maths: {weight: {mlp: [0.1, 0.9], default: 0.2}}
    parameters: {lambda: 0.5, normalize: true}
"""
RECIPE = Recipe(
    "task_arithmetic",
    (
        RecipeSource("maths", {"weight": Profile.of(0.4)}),
        RecipeSource("code", {"weight": Profile.of([0, 1])}),
    ),
    base="base",
    slices=(
        Slice({"base": (0, 8), "maths": (0, 8)}),
        Slice(
            {"base": (4, 16), "code": (4, 16), "maths": (0, 12)},
            {"maths": {"weight": Profile.of({"mlp": [0.1, 0.9], "default": 0.2})}},
            {"lambda": Profile.of(0.5), "normalize": True},
        ),
    ),
)


def read(text: str, tmp_path: Path):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return read_recipe(path)


def test_slices_are_read_and_written(tmp_path):
    file = read(STACK, tmp_path)
    assert file.recipe == RECIPE
    again = read(recipe_text(file.recipe, file.models), tmp_path)
    assert (again.recipe, again.recipe.id) == (RECIPE, RECIPE.id)
    assert Recipe.from_plain(json.loads(json.dumps(RECIPE.plain()))) == RECIPE
    assert pickle.loads(pickle.dumps(RECIPE)) == RECIPE
    assert hash(pickle.loads(pickle.dumps(RECIPE.slices[1]))) == hash(RECIPE.slices[1])


def test_each_slice_is_a_recipe_with_its_own_models_and_knobs():
    first, second = RECIPE.parts
    assert first == Recipe(
        "task_arithmetic", (RecipeSource("maths", {"weight": Profile.of(0.4)}),), base="base"
    )
    assert [source.name for source in second.sources] == ["code", "maths"]
    assert second.sources[1].knobs == RECIPE.slices[1].sources["maths"]
    assert second.knobs["normalize"] is True
    assert first.parts == (first,)
    halved = replace(RECIPE, knobs={"lambda": Profile.of(2.0)}).parts
    assert [part.knobs["lambda"] for part in halved] == [Profile.of(2.0), Profile.of(0.5)]


def test_a_recipe_without_slices_keeps_its_id():
    plain = Recipe("linear", (RecipeSource("a", {"weight": Profile.of(0.5)}),))
    assert "slices" not in plain.plain()
    assert plain.id == "48343b806a2a"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "code: [4, 16]",
            "code: [4, 8]",
            ":10:35: takes 4 layer(s) of code, but 12 of another model",
        ),
        ("code: [4, 16]", "code: [4]", ":10:35: expected [FIRST, END]: the first layer, counted"),
        ("code: [4, 16]", "coed: [4, 16]", ":10:35: unknown model 'coed'; did you mean 'code'?"),
        ("code: [4, 16], ", "", ":7:9: no slice has layers of 'code'; remove it"),
        (
            "    sources:\n      maths",
            "    sources:\n      base",
            ":12:13: 'base' is not a source of",
        ),
        ("lambda: 0.5", "lambda: 50", ":13:26: lambda must lie in [-10, 10]; got 50"),
        ("lambda: 0.5", "lamda: 0.5", ":13:25: task_arithmetic has no 'lamda'; did you mean 'lam"),
        ("mlp: [0.1", "mpl: [0.1", ":12:24: unknown selector 'mpl'"),
        (
            "    parameters: {la",
            "    parameter: {la",
            ":13:5: unknown key 'parameter'; did you mean",
        ),
        ("base: [0, 8], ", "", ":3:9: slice 1: task_arithmetic merges task vectors and needs a"),
        ("  - layers: {base: [0, 8], maths: [0, 8]}\n", "  - 5\n", ":9:3: expected a list of slic"),
    ],
)
def test_what_is_wrong_is_said_where_it_is_written(old, new, message, tmp_path):
    assert old in STACK
    with pytest.raises(ConfigError) as caught:
        read(STACK.replace(old, new), tmp_path)
    assert message in str(caught.value)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A base, a fine-tune with tokens more, and a deeper model."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("models")
    saved = {"base": save(perturb(llama(), 1), root / "base")}
    more = llama(vocab_size=66)
    more.save_pretrained(root / "more")
    tokenizer([*WORDS, "new", "newer"]).save_pretrained(root / "more")
    saved["more"] = root / "more"
    saved["deep"] = save(perturb(llama(num_hidden_layers=5), 2), root / "deep")
    return saved


def merged(recipe: dict, tmp_path: Path) -> dict[str, torch.Tensor]:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    merge_file(path, tmp_path / "out", Console(quiet=True))
    return load_file(tmp_path / "out/model.safetensors")


def stack(folders: dict[str, Path], *slices: dict, **more) -> dict:
    models = list(dict.fromkeys(model for piece in slices for model in piece))
    return {
        "method": "passthrough",
        "models": {name: str(folders[name]) for name in models},
        "sources": {name: {} for name in models},
        "slices": [{"layers": piece} for piece in slices],
    } | more


def test_models_of_different_depths_and_vocabularies_are_stacked(folders, tmp_path):
    recipe = stack(folders, {"base": [0, 2]}, {"more": [0, 3]}, {"deep": [3, 5]})
    tensors = merged(recipe, tmp_path)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["num_hidden_layers"], config["vocab_size"]) == (7, 64)
    own = load_file(folders["more"] / "model.safetensors")
    name = "mlp.up_proj.weight"
    assert torch.equal(tensors[f"model.layers.2.{name}"], own[f"model.layers.0.{name}"])
    again = read_recipe(tmp_path / "out/recipe.yaml")
    assert again.recipe.slices == read_recipe(tmp_path / "r.yaml").recipe.slices
    theirs = read_recipe(tmp_path / "out/mergekit.yaml").recipe
    assert [piece.n_layers for piece in theirs.slices] == [2, 3, 2]


def test_a_stack_may_take_the_vocabulary_of_another_model(folders, tmp_path):
    recipe = stack(folders, {"more": [0, 3]}, {"base": [0, 3]}, tokenizer="more")
    assert merged(recipe, tmp_path)["lm_head.weight"].shape[0] == 66


def test_without_slices_models_of_different_depths_are_refused(folders, tmp_path):
    recipe = stack(folders, {"base": [0, 2]}, {"deep": [3, 5]}, method="linear")
    del recipe["slices"]
    with pytest.raises(PreflightError, match="num_hidden_layers: 5 in deep, 3 in base"):
        merged(recipe, tmp_path)


def test_a_stack_still_needs_models_of_one_architecture(folders, tmp_path):
    other = save(llama(hidden_size=32), tmp_path / "other")
    recipe = stack({**folders, "other": other}, {"base": [0, 2]}, {"other": [0, 2]})
    with pytest.raises(PreflightError, match="hidden_size: 32 in other, 16 in base"):
        merged(recipe, tmp_path)


def test_a_study_measures_models_of_other_layers(folders):
    references = {name: str(folders[name]) for name in ("base", "more")}
    models = open_models(references, "base", lambda _: None)
    source = (RecipeSource("more", {}),)
    layers = [(0, 1), (1, 2), (1, 3)]
    swapped, deeper, beyond = (
        Recipe("passthrough", source, slices=tuple(Slice({"more": span}) for span in spans))
        for spans in ([*layers[1::-1], (2, 3)], layers, [(2, 4)])
    )
    (fault,) = structure_faults([swapped, deeper, beyond], models, lambda _: None)
    assert "more has 3 layers; got [2, 4]" in fault.message
