"""mergekit's YAML in and out, against its rules written out naively."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import load_file

from automerge.checkpoints import ModelWatch, open_checkpoint
from automerge.checkpoints.places import places
from automerge.commands.merge import merge_file
from automerge.commands.model_folder import write_model
from automerge.errors import ConfigError
from automerge.files.yaml_file import parse_yaml
from automerge.mergekit import is_mergekit, mergekit_text, parse_mergekit, to_mergekit
from automerge.mergekit.tables import COUNTERPARTS, INTEGERS, PARAMETERS, REQUIRED
from automerge.methods import METHODS
from automerge.recipe import Place, Profile, Recipe, RecipeSource, Slice
from tests.checkpoints.adapters import train
from tests.recipe_strategies import recipes

LAYER = (
    "input_layernorm.weight",
    "mlp.down_proj.weight",
    "mlp.up_proj.weight",
    "post_attention_layernorm.weight",
    "self_attn.o_proj.weight",
    "self_attn.q_proj.bias",
    "self_attn.q_proj.weight",
)


def llama(n_layers: int) -> list[Place]:
    names = ["lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"]
    names += [f"model.layers.{i}.{name}" for i in range(n_layers) for name in LAYER]
    return list(places(names).values())


def mergekit_value(setting: object, tensor: str, t: float) -> float | None:
    """mergekit's evaluation of one parameter, from its documentation."""
    if isinstance(setting, int | float):
        return float(setting)
    if isinstance(setting, list) and isinstance(setting[0], dict):
        for entry in setting:
            if entry.get("filter", "*") == "*" or entry["filter"] in tensor:
                return mergekit_value(entry["value"], tensor, t)
        return None
    scaled = t * (len(setting) - 1)
    left = math.floor(scaled)
    right = min(left + 1, len(setting) - 1)
    return setting[left] + (scaled - left) * (setting[right] - setting[left])


def mergekit_t(place: Place, n_layers: int) -> float:
    if place.layer is None:
        return 0.0  # embeddings, and since 0.1.0 final norm and head too
    return place.layer / (n_layers - 1) if n_layers > 1 else 1.0


def mergekit_values(config: dict, place: Place, n_layers: int) -> dict[tuple, float | None]:
    """All float parameters at one tensor: (model index or None, name) → value."""
    t = mergekit_t(place, n_layers)
    values = {}
    for name, setting in config.get("parameters", {}).items():
        if not isinstance(setting, bool):
            values[None, name] = mergekit_value(setting, place.tensor, t)
    for i, model in enumerate(config["models"]):
        for name, setting in model.get("parameters", {}).items():
            values[i, name] = mergekit_value(setting, place.tensor, t)
    return values


def our_values(recipe: Recipe, place: Place) -> dict[tuple[int | None, str], float]:
    resolved = METHODS[recipe.method].values(recipe, place)
    values: dict[tuple[int | None, str], float] = {(None, k): v for k, v in resolved.number.items()}
    for name, each in resolved.each.items():
        values |= {(i, name): v for i, v in enumerate(each)}
    return values


def expressible(recipe: Recipe) -> Recipe:
    """The recipe without what mergekit's method cannot do."""
    own, whole = PARAMETERS[COUNTERPARTS[recipe.method].method]

    def possible(knobs, names):
        return {k: v for k, v in knobs.items() if k in names and k not in INTEGERS}

    return dataclasses.replace(
        recipe,
        sources=tuple(RecipeSource(s.name, possible(s.knobs, own)) for s in recipe.sources),
        knobs=possible(recipe.knobs, [n for n in whole if n not in own]),
    )


def default(recipe: Recipe, name: str) -> float | None:
    """What mergekit takes where nothing is said: our defaults, but for what it requires."""
    defaults = {k.name: float(k.default) for k in METHODS[recipe.method].knobs}
    theirs = COUNTERPARTS[recipe.method].method
    required = name in REQUIRED and theirs != "karcher"
    return None if required else defaults[name]


def widths(values: dict) -> list[float]:
    """How far each source's probabilities in DELLA lie from its density."""
    pairs = [(values.get((i, "density")), e) for (i, n), e in values.items() if n == "epsilon"]
    return [min(e, d, 1 - d) for d, e in pairs if d is not None]


EXPRESSIBLE = recipes(tuple(COUNTERPARTS)).map(expressible)
MODELS = {"base": "org/base", **{f"model{i}": f"org/model{i}@main" for i in range(4)}}


@settings(max_examples=100)
@given(EXPRESSIBLE, st.sampled_from([1, 2, 3, 12]))
def test_what_is_exported_has_the_same_value_on_every_tensor_in_mergekit(recipe, n_layers):
    model = llama(n_layers)
    config = yaml.safe_load(to_mergekit(recipe, MODELS, model).text)
    for place in model:
        ours, given = our_values(recipe, place), mergekit_values(config, place, n_layers)
        theirs = {key: given.get(key, default(recipe, key[1])) for key in ours}
        for key, got in theirs.items():
            if key[1] == "epsilon" and (key[0], "density") in ours:
                density = theirs[key[0], "density"]
                assert density in (0, 1) or got < min(density, 1 - density)
                continue
            assert got == pytest.approx(ours[key], abs=1e-8), (place, key)
        assert widths(theirs) == pytest.approx(widths(ours), abs=2e-5)


@settings(max_examples=100)
@given(EXPRESSIBLE, st.sampled_from([1, 2, 5, 12]))
def test_what_is_exported_is_imported_with_the_same_value_on_every_tensor(recipe, n_layers):
    model = llama(n_layers)
    export = to_mergekit(recipe, MODELS, model)
    read = parse_mergekit(parse_yaml(export.text, "f"), Path("/nowhere"))
    assert read.recipe.method == recipe.method
    assert read.recipe.dtype == recipe.dtype
    names = [read.models[source.name] for source in read.recipe.sources]
    assert names == [MODELS[source.name] for source in recipe.sources]
    for place in model:
        ours = METHODS[recipe.method].values(recipe, place)
        again = METHODS[recipe.method].values(read.recipe, place)
        assert again.switch == ours.switch
        before, after = our_values(recipe, place), our_values(read.recipe, place)
        for key, value in after.items():
            if key[1] != "epsilon" or (key[0], "density") not in after:
                assert value == pytest.approx(before[key], abs=2e-6)
        assert widths(after) == pytest.approx(widths(before), abs=2e-5)


def parse(text: str, folder: Path = Path("/nowhere")):
    return parse_mergekit(parse_yaml(text, "m.yaml"), folder)


def value(recipe: Recipe, source: int | None, knob: str, tensor: str, n_layers: int = 3) -> float:
    place = next(place for place in llama(n_layers) if place.tensor == tensor)
    return our_values(recipe, place)[source, knob]


TIES = """\
merge_method: ties
base_model: org/base
models:
  - model: org/base
  - model: org/math
    parameters:
      density: [1, 0.5, 0.1]
      weight:
        - filter: mlp
          value: [0.2, 0.8]
        - value: 0.3
  - model: org/code@v1
    parameters: {weight: 0.5}
parameters:
  normalize: true
  density: 0.7
  int8_mask: true
dtype: bfloat16
"""


def test_gradients_filters_and_levels_are_read_as_mergekit_does():
    read = parse(TIES)
    recipe = read.recipe
    assert read.models == {"base": "org/base", "math": "org/math", "code": "org/code@v1"}
    assert (recipe.method, recipe.base, recipe.dtype) == ("ties", "base", "bfloat16")
    assert [source.name for source in recipe.sources] == ["math", "code"]
    middle = "model.layers.1.mlp.up_proj.weight"
    assert value(recipe, 0, "weight", middle) == pytest.approx(0.5)
    assert value(recipe, 0, "weight", "model.layers.2.self_attn.q_proj.weight") == 0.3
    assert value(recipe, 0, "density", middle) == pytest.approx(0.5)
    assert value(recipe, 1, "density", middle) == 0.7
    assert value(recipe, 0, "density", "model.embed_tokens.weight") == 1
    # Since #534 mergekit gives final norm and head the first value of a gradient.
    assert value(recipe, 0, "density", "lm_head.weight") == 1
    assert value(recipe, 0, "density", "model.norm.weight") == 1
    assert any("first value" in note for note in read.notes)


def test_a_filter_list_of_a_model_falls_back_to_the_global_one():
    read = parse(
        """\
merge_method: linear
models:
  - model: org/a
    parameters:
      weight: [{filter: mlp, value: 0.1}]
  - {model: org/b}
parameters:
  weight:
    - {filter: up_proj, value: 0.2}
    - {filter: "*", value: 0.3}
    - {filter: q_proj, value: 0.4}
"""
    )
    up, q = "model.layers.0.mlp.up_proj.weight", "model.layers.0.self_attn.q_proj.weight"
    assert [value(read.recipe, i, "weight", up) for i in (0, 1)] == [0.1, 0.2]
    assert [value(read.recipe, i, "weight", q) for i in (0, 1)] == [0.3, 0.3]


def test_a_filter_is_a_substring_whatever_it_holds():
    read = parse(
        """\
merge_method: linear
models:
  - model: org/a
    parameters: {weight: [{filter: "[a-z]?", value: 0.1}, {value: 0.2}]}
"""
    )
    assert value(read.recipe, 0, "weight", "lm_head.weight") == 0.2


@pytest.mark.parametrize("order", ["base first", "base last", "base only as base_model"])
def test_slerp_starts_at_the_base(order):
    listed = {
        "base first": "models: [{model: org/base}, {model: org/a}]",
        "base last": "models: [{model: org/a}, {model: org/base}]",
        "base only as base_model": "models: [{model: org/a}]",
    }[order]
    read = parse(
        f"merge_method: slerp\nbase_model: org/base\n{listed}\nparameters: {{t: [0, 0.5]}}"
    )
    assert [read.models[s.name] for s in read.recipe.sources] == ["org/base", "org/a"]
    assert value(read.recipe, None, "t", "model.layers.2.mlp.up_proj.weight") == 0.5
    assert value(read.recipe, None, "t", "lm_head.weight") == 0


def test_linear_takes_an_unlisted_base_as_its_last_input():
    read = parse(
        "merge_method: linear\nbase_model: org/base\nmodels: [{model: org/a}]\n"
        "parameters: {weight: 0.5}"
    )
    assert [source.name for source in read.recipe.sources] == ["a", "base"]
    assert read.recipe.base is None


SLICES = """\
merge_method: slerp
base_model: org/base
slices:
  - sources:
      - {model: org/base, layer_range: [0, 32]}
      - {model: org/a, layer_range: [0, 32]}
    parameters: {t: 0.25}
parameters: {t: 0.5}
"""


def test_a_slice_decides_before_the_whole():
    recipe = parse(SLICES).recipe
    assert recipe.knobs["t"] == Profile.of(0.25)
    assert recipe.slices == (Slice({"base": (0, 32), "a": (0, 32)}),)


def test_a_slice_that_is_known_to_be_all_layers_is_none(tmp_path):
    for name in ("a", "base"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"num_hidden_layers": 32}')
    local = SLICES.replace("org/", "./")
    recipe = parse(local, tmp_path).recipe
    assert (recipe.slices, recipe.knobs["t"]) == ((), Profile.of(0.25))
    assert parse(local.replace("32]", "16]"), tmp_path).recipe.slices[0].n_layers == 16
    with pytest.raises(ConfigError, match=r"m.yaml:5:38: base has 32 layers; got \[0, 33\]"):
        parse(local.replace("32]", "33]"), tmp_path)


def test_two_models_of_one_name_get_two_names():
    read = parse(
        "merge_method: linear\nmodels: [{model: x/m}, {model: y/m}, {model: z/base}]\n"
        "parameters: {weight: 1}"
    )
    assert read.models == {"m": "x/m", "m-2": "y/m", "base-2": "z/base"}


def test_an_adapter_is_read_as_a_source_of_its_own():
    read = parse(TIES.replace("org/math", "org/base+org/lora"))
    assert read.models["lora"] == "org/lora"
    with pytest.raises(
        ConfigError, match=r"m.yaml:5:12: all adapters must be of the same model, org/b"
    ):
        parse(TIES.replace("org/math", "org/other+org/lora"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "density: 0.7",
            "denstiy: 0.7",
            ":16:3: unknown parameter of ties 'denstiy'; did you mean 'd",
        ),
        ("weight: 0.5", "wieght: 0.5", ":13:18: unknown parameter of a model in ties 'wieght'"),
        ("{weight: 0.5}", "{density: 0.5}", ":12:5: mergekit needs a weight for each model"),
        ("        - value: 0.3\n", "", ":9:9: no weight where no filter matches; end the list"),
        ("density: 0.7", "density: 1.7", ":16:12: density must lie in [0, 1]; got 1.7"),
        ("density: 0.7", "density: high", ":16:12: expected a number or a list of numbers"),
        ("density: 0.7", "rescale: true", ":16:12: ties with rescale: true is not supported"),
        ("normalize: true", "normalize: [0, 1]", ":15:14: expected true or false for all"),
        ("merge_method: ties", "merge_method: tise", ":1:15: unknown merge method 'tise'; did you"),
        ("merge_method: ties\n", "", ":1:1: missing key 'merge_method'"),
        ("base_model: org/base\n", "", ":1:1: mergekit's ties needs a base_model"),
        ("org/code@v1", "org/math", ":12:12: org/math is listed twice"),
        ("org/code@v1", "./code", ":12:12: no such folder: "),
        ("dtype: bfloat16", "dtype: bf16", ":18:8: unknown dtype 'bf16'; did you mean 'bfloat16'?"),
        ("dtype: bfloat16", "dtyp: x", ":18:1: unknown key 'dtyp'; did you mean 'dtype'?"),
        (
            "dtype: bfloat16",
            "tokenizer_source: org/x",
            ":18:19: the tokenizer must be that of a merged",
        ),
        ("dtype: bfloat16", "chat_template: chatml", ":18:16: mergekit's own template"),
        ("dtype: bfloat16", "modules: {}", ":3:1: expected either `modules` or `models`, got both"),
        ("dtype: bfloat16", "slices: []", ":18:1: expected either `models` or `slices`, got both"),
        ("- model: org/base\n", "- org/base\n", ":4:5: expected a mapping with `model`"),
        ("filter: mlp", "filtre: mlp", ":9:11: unknown key 'filtre'; did you mean 'filter'?"),
    ],
)
def test_what_mergekit_would_ignore_or_we_cannot_do_is_refused(old, new, message):
    assert old in TIES
    with pytest.raises(ConfigError) as caught:
        parse(TIES.replace(old, new))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("base, layer_range: [0, 32]", "base", ":5:9: expected layer_range: [FIRST, END], END"),
        (
            "a, layer_range: [0, 32]",
            "a, layer_range: [0, 8]",
            ":6:37: takes 8 layer(s) of a, but 32 of",
        ),
        (
            "a, layer_range: [0, 32]",
            "a, layer_range: [8, 8]",
            ":6:37: expected the first layer, cou",
        ),
        ("    parameters: {t: 0.25}", "    residual_weight: 1", ":7:5: mergekit ignores residual"),
        (
            "    parameters: {t: 0.25}",
            "    base_model: org/c",
            ":4:5: mergekit needs the base_model",
        ),
        (
            "    parameters: {t: 0.25}",
            "    paramters: {}",
            ":7:5: unknown key 'paramters'; did you",
        ),
        ("{t: 0.25}", "{t: 0.25, s: 1}", ":7:27: unknown parameter of slerp 's'"),
        ("parameters: {t: 0.5}", "models: []", ":3:1: expected either `models` or `slices`, got"),
        ("{t: 0.25}", "{t: 2}", ":7:21: t must lie in [0, 1]; got 2"),
    ],
)
def test_slices_that_cannot_be_are_refused(old, new, message):
    assert old in SLICES
    with pytest.raises(ConfigError) as caught:
        parse(SLICES.replace(old, new))
    assert message in str(caught.value)


MODULE = """\
merge_method: slerp
base_model: org/base
modules:
  default:
    models: [{model: org/base}, {model: org/a}]
    parameters: {t: 0.25}
parameters: {t: 0.5}
"""


def test_a_single_module_is_the_model_and_decides_before_the_whole():
    recipe = parse(MODULE).recipe
    assert recipe.knobs["t"] == Profile.of(0.25)
    assert [source.name for source in recipe.sources] == ["base", "a"]
    slices = "slices: [{sources: [{model: org/a, layer_range: [0, 2]}, {model: org/base, "
    text = MODULE.replace(
        "models: [{model: org/base}, {model: org/a}]", f"{slices}layer_range: [1, 3]}}]}}]"
    )
    assert parse(text).recipe.slices == (Slice({"base": (1, 3), "a": (0, 2)}),)
    with pytest.raises(ConfigError, match=":4:3: expected one module"):
        parse(MODULE.replace("parameters: {t: 0.5}", "").rstrip() + "\n  vision: {models: []}\n")


def test_slices_of_two_methods_or_bases_are_refused():
    head = "merge_method: nuslerp\nslices:\n"
    piece = (
        "  - sources: [{model: org/a, layer_range: [0, 2]}, {model: org/b, layer_range: [0, 2]}]\n"
    )
    tail = "parameters: {weight: 1}\n"
    mixed = f"{head}{piece}{piece}    parameters: {{nuslerp_flatten: false}}\n{tail}"
    with pytest.raises(ConfigError, match=":4:5: slices of both nuslerp and nuslerp_rows in one"):
        parse(mixed)
    based = [piece + f"    base_model: org/{name}\n" for name in ("a", "b")]
    with pytest.raises(ConfigError, match=":6:17: different base_models in one merge"):
        parse(f"merge_method: ties\nslices:\n{''.join(based)}{tail}")


def test_linear_takes_no_unlisted_base_into_slices():
    source = "{model: org/a, layer_range: [0, 2]}"
    text = f"merge_method: linear\nbase_model: org/base\nslices: [{{sources: [{source}]}}]\n"
    read = parse(text + "parameters: {weight: 0.5}\n")
    assert [source.name for source in read.recipe.sources] == ["a"]


def test_what_all_slices_say_of_a_knob_is_said_once():
    text = """\
merge_method: linear
slices:
  - sources:
      - {model: org/a, layer_range: [0, 2], parameters: {weight: 0.2}}
      - {model: org/b, layer_range: [0, 2], parameters: {weight: [0, 1]}}
  - sources:
      - {model: org/b, layer_range: [0, 2], parameters: {weight: [0, 1]}}
      - {model: org/a, layer_range: [0, 2], parameters: {weight: 0.3}}
    parameters: {normalize: false}
"""
    recipe = parse(text).recipe
    assert [dict(s.knobs) for s in recipe.sources] == [{}, recipe.sources[1].knobs]
    assert recipe.sources[1].knobs["weight"].plain()["default"] == [0, 1]
    first, second = recipe.slices
    assert (first.knobs, dict(second.knobs)) == ({}, {"normalize": False})
    assert [*second.layers] == ["b", "a"]
    assert second.sources == {"a": {"weight": Profile.of(0.3)}}


def test_parameters_of_other_methods_do_nothing_as_in_mergekit():
    read = parse(SLICES.replace("{t: 0.5}", "{t: 0.5, int8_mask: true, normalize: false}"))
    assert read.recipe == parse(SLICES).recipe
    assert read.notes == ("slerp ignores normalize there, here as in mergekit",)


def test_all_faults_come_together():
    broken = TIES.replace("int8_mask", "int8mask").replace("value: 0.3", "valeu: 0.3")
    with pytest.raises(ConfigError) as caught:
        parse(broken.replace("weight: 0.5", "weigth: 0.5"))
    assert len(caught.value.faults) >= 3


def test_task_arithmetic_drops_the_density_that_mergekit_does_not_use():
    read = parse(
        TIES.replace("merge_method: ties", "merge_method: task_arithmetic").replace(
            "normalize: true", "normalize: false"
        )
    )
    assert "density" not in read.recipe.sources[0].knobs
    assert any("does not use density" in note for note in read.notes)


@pytest.mark.parametrize("method", ["dare_ties", "dare_linear"])
def test_the_difference_in_rescaling_is_told_both_ways(method):
    text = TIES.replace("merge_method: ties", f"merge_method: {method}")
    read = parse(text.replace("normalize: true", "normalize: false"))
    assert any("1/density" in note for note in read.notes)
    export = to_mergekit(read.recipe, read.models, llama(2))
    assert any("1/density" in difference for difference in export.differences)
    assert "# Not the same: mergekit rescales" in export.text


def test_components_become_the_filters_a_person_would_write():
    weight = Profile.of({"attention": [0.1, 0.9], "norm": 0.5, "default": 0.2})
    recipe = Recipe("linear", (RecipeSource("model0", {"weight": weight}),))
    config = yaml.safe_load(to_mergekit(recipe, MODELS, llama(40)).text)
    assert config["models"][0]["parameters"]["weight"] == [
        {"filter": "self_attn", "value": [0.1, 0.9]},
        {"filter": "norm", "value": 0.5},
        {"value": 0.2},
    ]


def test_the_last_value_of_a_gradient_is_written_out_for_final_norm_and_head():
    recipe = Recipe("linear", (RecipeSource("model0", {"weight": Profile.of([0.1, 0.9])}),))
    config = yaml.safe_load(to_mergekit(recipe, MODELS, llama(4)).text)
    assert config["models"][0]["parameters"]["weight"] == [
        {"filter": "model.norm.weight", "value": 0.9},
        {"filter": "lm_head.weight", "value": 0.9},
        {"value": [0.1, 0.9]},
    ]


def test_names_that_are_part_of_others_are_told_apart():
    names = ["norm.weight", *(f"layers.{i}.norm.weight" for i in range(12)), "layers.1.x.weight"]
    model = list(places(names).values())
    weight = Profile.of({"layers.1.n*": 0.1, "norm*": 0.7, "default": [0.2, 0.3]})
    recipe = Recipe("linear", (RecipeSource("model0", {"weight": weight}),))
    config = yaml.safe_load(to_mergekit(recipe, MODELS, model).text)
    for place in model:
        got = mergekit_values(config, place, 12)[0, "weight"]
        assert got == pytest.approx(weight.at(place), abs=1e-8)


def test_an_adapter_is_written_onto_its_base():
    recipe = Recipe("task_arithmetic", (RecipeSource("model0", {}),), base="base")
    text = to_mergekit(recipe, MODELS, llama(2), adapters={"model0": "LoRA"}).text
    assert yaml.safe_load(text)["models"][0]["model"] == "org/base+org/model0@main"


def test_an_adapter_of_a_merge_without_a_base_is_read_back_with_its_owner():
    recipe = Recipe("linear", tuple(RecipeSource(f"model{i}", {}) for i in (0, 1)))
    text = to_mergekit(
        recipe, MODELS, llama(2), adapters=dict.fromkeys(("model0", "model1"), "LoRA")
    ).text
    config = yaml.safe_load(text)
    assert [m["model"] for m in config["models"]] == [
        "org/base+org/model0@main",
        "org/base+org/model1@main",
    ]
    assert "base_model" not in config
    read = parse(text)
    assert read.recipe.base is None
    assert [source.name for source in read.recipe.sources] == ["model0", "model1"]
    assert read.models == {
        "base": "org/base",
        "model0": "org/model0@main",
        "model1": "org/model1@main",
    }


def test_the_owner_of_adapters_may_be_merged_too():
    read = parse(
        "merge_method: linear\nmodels: [{model: org/b+org/lora}, {model: org/b}]\n"
        "parameters: {weight: 1}"
    )
    assert [source.name for source in read.recipe.sources] == ["lora", "base"]
    assert read.models == {"base": "org/b", "lora": "org/lora"}


def test_an_exported_merge_of_adapters_gives_the_same_weights_again(tmp_path):
    trained = train(tmp_path, target_modules=["q_proj"])
    base, folder = trained.base, trained.folder
    references = {"base": str(base), "lora": str(folder)}
    opened = open_checkpoint(base)
    checkpoints = {"base": opened, "lora": open_checkpoint(folder, opened)}
    recipe = Recipe("linear", (RecipeSource("lora", {}), RecipeSource("base", {})))
    write_model(recipe, checkpoints, references, tmp_path / "one", ModelWatch({}), None)
    merge_file(tmp_path / "one" / "mergekit.yaml", tmp_path / "two", Console(quiet=True))
    first, second = (load_file(tmp_path / n / "model.safetensors") for n in ("one", "two"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[n], second[n]) for n in first)


def test_adapters_of_two_models_are_refused():
    with pytest.raises(
        ConfigError, match=r"m.yaml:2:43: all adapters must be of the same model, org/b"
    ):
        parse(
            "merge_method: linear\nmodels: [{model: org/b+org/lora}, {model: org/c+org/lora2}]\n"
            "parameters: {weight: 1}"
        )


def test_what_mergekit_calls_one_method_is_read_as_the_one_meant():
    two = "models: [{model: org/a}, {model: org/b}]\nparameters: {weight: 1, nuslerp_flatten: %s}"
    for flatten, base, expected in [
        ("true", "", "nuslerp"),
        ("false", "", "nuslerp_rows"),
        ("true", "base_model: org/c\n", "task_nuslerp"),
        ("false", "base_model: org/c\n", "task_nuslerp_rows"),
    ]:
        read = parse(f"merge_method: nuslerp\n{base}{two % flatten}")
        assert (read.recipe.method, read.recipe.base) == (expected, "base" if base else None)


@pytest.mark.parametrize(
    ("method", "sources", "knobs", "message"),
    [
        ("unknown", {}, {}, "mergekit has no equivalent of 'unknown'"),
        (
            "model_stock",
            {},
            {"lambda": [1, 0.5]},
            "mergekit's model_stock has no lambda; it is fixed at 1",
        ),
        ("karcher", {"weight": [1, 0.5]}, {}, "mergekit's karcher has no weight; all models count"),
        ("karcher", {}, {"max_iter": 2.5}, "mergekit's karcher needs a whole number for max_iter"),
    ],
)
def test_what_mergekit_cannot_do_is_refused_and_said(method, sources, knobs, message):
    given = {k: Profile.of(v) for k, v in sources.items()}
    recipe = Recipe(
        method,
        (RecipeSource("model0", given), RecipeSource("model1", {})),
        base="base" if method not in METHODS or METHODS[method].anchored else None,
        knobs={k: Profile.of(v) for k, v in knobs.items()},
    )
    with pytest.raises(ConfigError) as caught:
        to_mergekit(recipe, MODELS, llama(3))
    assert message in str(caught.value)
    said = mergekit_text(recipe, MODELS, llama(3))
    assert yaml.safe_load(said) is None
    assert message[:40] in said


def test_mergekit_files_are_told_from_ours():
    assert is_mergekit({"merge_method": "linear"})
    assert is_mergekit({"models": [{"model": "a"}]})
    assert not is_mergekit({"method": "linear", "models": {"a": "b"}})
