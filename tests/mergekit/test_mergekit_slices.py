"""The same stacks of layers by mergekit 0.1.5, from its files and from those we write."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from automerge.checkpoints import layout, open_checkpoint
from automerge.files.yaml_file import parse_yaml
from automerge.mergekit import parse_mergekit, to_mergekit
from automerge.mergekit.slices import OUTER_NOTE
from automerge.methods import METHODS
from automerge.recipe import Profile, Recipe, RecipeSource, Slice
from tests.checkpoints.models import llama, save
from tests.mergekit.test_mergekit import EXPRESSIBLE, MODELS, expressible, our_values
from tests.mergekit.test_mergekit import llama as llama_places
from tests.methods.test_mergekit_parity import by_mergekit, by_us, distance
from tests.recipe_strategies import recipes

DEPTHS = {"base": 4, "a": 4, "b": 4, "deep": 6}
FILTERED = [{"filter": "mlp", "value": [0.3, 0.9]}, {"value": [0.2, 0.6]}]


def piece(*sources: tuple, base: str | None = None, **parameters) -> dict:
    """A slice; sources are (model, first layer, end) with parameters or without."""
    entries = [
        {"model": model, "layer_range": [start, stop]} | ({"parameters": own[0]} if own else {})
        for model, start, stop, *own in sources
    ]
    plain = {"sources": entries} | ({"base_model": base} if base else {})
    return plain | ({"parameters": parameters} if parameters else {})


def merge(method: str, *slices: dict, base: str | None = None, **parameters) -> dict:
    plain: dict = {"merge_method": method, "slices": list(slices), "dtype": "float32"}
    plain |= {"base_model": base} if base else {}
    return plain | ({"parameters": parameters} if parameters else {})


NO_RESIDUAL = {
    "scale": [
        {"filter": "o_proj", "value": 0.0},
        {"filter": "down_proj", "value": 0.0},
        {"value": 1.0},
    ]
}
CASES: Mapping[str, dict] = {
    "depth up-scaling": merge("passthrough", piece(("a", 0, 3)), piece(("a", 1, 4))),
    "copied layers that do nothing": merge(
        "passthrough", piece(("a", 0, 2)), piece(("a", 1, 2, NO_RESIDUAL)), piece(("a", 2, 4))
    ),
    "one slice without the last layer": merge("passthrough", piece(("a", 0, 3))),
    "layers swapped and put in another order": merge(
        "passthrough",
        piece(("b", 0, 1)),
        piece(("a", 2, 3)),
        piece(("a", 1, 2)),
        piece(("b", 3, 4)),
    ),
    "models of different depths": merge(
        "passthrough", piece(("a", 0, 3)), piece(("deep", 2, 6)), base="deep"
    ),
    "scales over depth": merge(
        "passthrough", piece(("a", 0, 3), scale=[0.5, 1.5]), piece(("b", 0, 4, NO_RESIDUAL))
    ),
    "slerp of layers at different heights": merge(
        "slerp",
        piece(("a", 0, 3), ("b", 1, 4), t=[0.1, 0.9]),
        piece(("b", 2, 4), ("a", 0, 2), base="b"),
        base="a",
        t=FILTERED,
    ),
    "averages with gradients in each slice": merge(
        "linear",
        piece(("a", 0, 2, {"weight": FILTERED}), ("b", 2, 4, {"weight": [1, 0.5, 0.2]})),
        piece(("deep", 1, 6, {"weight": 0.7}), ("deep+", 0, 5, {"weight": [0.4, 0.1]})),
        piece(("a", 3, 4), ("base", 0, 1), normalize=False),
        weight=0.4,
    ),
    "one model, then two, then one": merge(
        "linear", piece(("a", 0, 2)), piece(("a", 2, 4), ("b", 2, 4)), piece(("b", 3, 4)), weight=1
    ),
    "task vectors of some layers": merge(
        "ties",
        piece(("base", 0, 2), ("a", 0, 2, {"weight": [0.2, 0.8]}), ("b", 1, 3, {"weight": 0.5})),
        piece(("base", 2, 4), ("b", 2, 4, {"weight": 1.0, "density": [0.3, 0.9]})),
        base="base",
        density=0.6,
        **{"lambda": [0.7, 1.1]},
    ),
    "nuslerp of task vectors": merge(
        "nuslerp",
        piece(("base", 0, 2), ("a", 0, 2, {"weight": 0.3}), ("b", 0, 2, {"weight": [0.2, 0.8]})),
        piece(("base", 3, 4), ("a", 2, 3, {"weight": 0.9}), ("b", 1, 2, {"weight": 0.2})),
        base="base",
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Mapping[str, Path]:
    root, saved = tmp_path_factory.mktemp("models"), {}
    for seed, (name, depth) in enumerate([*DEPTHS.items(), ("deep+", 6)]):
        torch.manual_seed(seed)
        model = llama(vocab_size=48, num_hidden_layers=depth)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
        saved[name] = save(model, root / name.replace("+", "-plus"))
    return saved


def located(config: dict, folders: Mapping[str, Path]) -> dict:
    """The file with folders in place of names."""

    def at(value):
        if isinstance(value, list):
            return [at(entry) for entry in value]
        if not isinstance(value, dict):
            return value
        return {
            k: str(folders[v]) if k in ("model", "base_model") else at(v) for k, v in value.items()
        }

    return at(config)


def read(config: dict, folders: Mapping[str, Path]):
    return parse_mergekit(parse_yaml(yaml.safe_dump(located(config, folders)), "m.yaml"), Path("/"))


def exported(recipe: Recipe, models: Mapping[str, str]) -> dict:
    tensors = {name: open_checkpoint(Path(models[name])).tensors for name in recipe.models}
    places = [target.place for target in layout(recipe, tensors)]
    return yaml.safe_load(to_mergekit(recipe, models, places).text)


@pytest.mark.sample(5)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_a_file_with_slices_gives_the_same_weights_both_ways(name, folders, tmp_path):
    imported = read(CASES[name], folders)
    opened = {model: Path(reference) for model, reference in imported.models.items()}
    ours = by_us(imported.recipe, opened, tmp_path / "ours")
    theirs = by_mergekit(located(CASES[name], folders), tmp_path / "theirs")
    assert distance(ours, theirs) < 5e-5
    again = by_mergekit(exported(imported.recipe, imported.models), tmp_path / "again")
    assert distance(ours, again) < 5e-5
    configs = [json.loads((tmp_path / n / "config.json").read_text()) for n in ("ours", "theirs")]
    assert configs[0]["num_hidden_layers"] == configs[1]["num_hidden_layers"]


@pytest.mark.filterwarnings("ignore")
def test_parameters_of_a_module_lie_between_those_of_its_slices_and_the_merge(folders, tmp_path):
    slices = [piece(("a", 0, 2), ("b", 2, 4), t=0.2), piece(("a", 2, 4), ("b", 0, 2))]
    config = merge("slerp", base="a", t=0.9) | {
        "modules": {"default": {"slices": slices, "parameters": {"t": 0.6}}}
    }
    del config["slices"]
    imported = read(config, folders)
    opened = {model: Path(reference) for model, reference in imported.models.items()}
    ours = by_us(imported.recipe, opened, tmp_path / "ours")
    assert distance(ours, by_mergekit(located(config, folders), tmp_path / "theirs")) < 5e-5


@pytest.mark.filterwarnings("ignore")
def test_final_norm_and_head_are_of_all_models_of_the_last_slice(folders, tmp_path):
    """mergekit takes as many of them as the first slice has models; the layers are the same."""
    config = merge("linear", piece(("a", 0, 3)), piece(("b", 3, 4), ("a", 3, 4)), weight=1)
    imported = read(config, folders)
    assert OUTER_NOTE in imported.notes
    opened = {model: Path(reference) for model, reference in imported.models.items()}
    ours = by_us(imported.recipe, opened, tmp_path / "ours")
    theirs = by_mergekit(located(config, folders), tmp_path / "theirs")
    outer = ("model.norm.weight", "lm_head.weight")
    inner = [{n: t for n, t in made.items() if n not in outer} for made in (ours, theirs)]
    assert distance(*inner) < 5e-5
    b, a = (open_checkpoint(folders[name]) for name in "ba")
    for name in outer:
        torch.testing.assert_close(theirs[name], b.read(name))
        torch.testing.assert_close(ours[name], (a.read(name) + b.read(name)) / 2)


def test_a_recipe_of_ours_with_slices_is_written_for_mergekit(folders):
    models = {"base": "org/base", "a": "org/a"}
    recipe = Recipe(
        "task_arithmetic",
        (RecipeSource("a", {"weight": Profile.of(0.4)}),),
        base="base",
        slices=(
            Slice({"base": (0, 2), "a": (0, 2)}),
            Slice({"base": (0, 4), "a": (0, 4)}, {"a": {"weight": Profile.of([0, 1])}}),
        ),
        dtype="bfloat16",
    )
    tensors = {name: open_checkpoint(folders[name]).tensors for name in models}
    text = to_mergekit(recipe, models, [t.place for t in layout(recipe, tensors)]).text
    assert yaml.safe_load(text)["slices"] == [
        {
            "sources": [
                {"model": "org/base", "layer_range": [0, 2]},
                {"model": "org/a", "layer_range": [0, 2], "parameters": {"weight": 0.4}},
            ]
        },
        {
            "sources": [
                {"model": "org/base", "layer_range": [0, 4]},
                {
                    "model": "org/a",
                    "layer_range": [0, 4],
                    "parameters": {
                        "weight": [
                            {"filter": "model.norm.weight", "value": 1},
                            {"filter": "lm_head.weight", "value": 1},
                            {"value": [0, 1]},
                        ]
                    },
                },
            ]
        },
    ]


@st.composite
def stacks(draw: st.DrawFn) -> Recipe:
    """A recipe of one to three slices, whose knobs may be other than the recipe's."""
    recipe = draw(EXPRESSIBLE)
    slices = []
    for _ in range(draw(st.integers(1, 3))):
        n_layers = draw(st.integers(1, 3))
        order = draw(st.permutations([source.name for source in recipe.sources]))
        models = [*([recipe.base] if recipe.base else []), *order]
        starts = {model: draw(st.integers(0, 4 - n_layers)) for model in models}
        other = draw(recipes((recipe.method,)).map(expressible))
        own = {source.name: source.knobs for source in other.sources if source.name in order}
        slices.append(
            Slice(
                {model: (start, start + n_layers) for model, start in starts.items()},
                draw(st.sampled_from([{}, own])),
                draw(st.sampled_from([{}, other.knobs])),
            )
        )
    return dataclasses.replace(recipe, slices=tuple(slices))


@settings(max_examples=40)
@given(stacks())
def test_what_is_exported_is_imported_with_the_same_values_in_every_slice(recipe):
    names = [place.tensor for place in llama_places(4)]
    targets = layout(recipe, dict.fromkeys(recipe.models, names))
    text = to_mergekit(recipe, MODELS, [target.place for target in targets]).text
    read = parse_mergekit(parse_yaml(text, "f"), Path("/nowhere"))
    again = layout(read.recipe, dict.fromkeys(read.recipe.models, names))
    assert [target.place for target in again] == [target.place for target in targets]
    for ours, theirs in zip(targets, again, strict=True):
        part, read_part = recipe.parts[ours.part], read.recipe.parts[theirs.part]
        order = [source.name for source in part.sources]
        assert [read.models[s.name] for s in read_part.sources] == [MODELS[name] for name in order]
        before, after = our_values(part, ours.place), our_values(read_part, theirs.place)
        for key, value in after.items():
            if key[1] != "epsilon" or (key[0], "density") not in after:
                assert value == pytest.approx(before[key], abs=2e-6), (ours.place, key)
        switches = (METHODS[r.method].values(r, ours.place).switch for r in (part, read_part))
        assert len({tuple(s.items()) for s in switches}) == 1
        stored = {MODELS[o.model]: o.tensor for o in ours.stored.values()}
        assert stored == {read.models[o.model]: o.tensor for o in theirs.stored.values()}
