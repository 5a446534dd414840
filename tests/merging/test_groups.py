"""Recipes in which groups of tensors are merged by methods of their own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file

from automerge.checkpoints import open_checkpoint
from automerge.checkpoints.layout import layout
from automerge.errors import ConfigError
from automerge.mergekit.write import mergekit_text, to_mergekit
from automerge.merging import ResidentEngine, merge_to_folder
from automerge.methods import METHODS, check_recipe
from automerge.recipe import DEFAULT, Place, Profile, Recipe, RecipeSource, Slice
from automerge.testing.merges import value
from tests.checkpoints.models import llama, perturb, save
from tests.methods.dataless import DATALESS

GROUPED = tuple(name for name in DATALESS if METHODS[name].max_sources is None)
SELECTORS = ("attention", "*up_proj*", "depth<0.5")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root, saved = tmp_path_factory.mktemp("models"), {}
    for seed, name in enumerate(("base", "m0", "m1", "m2")):
        model = llama(num_hidden_layers=3).to(torch.bfloat16)
        saved[name] = save(perturb(model, seed), root / name)
    return saved


@pytest.fixture(scope="module")
def engine(folders) -> ResidentEngine:
    return ResidentEngine({name: open_checkpoint(folder) for name, folder in folders.items()})


def plain(*names: str, method: str | None = None) -> Recipe:
    """A recipe with the knobs of some methods, merged by one of them, the first by default."""
    declared = [METHODS[name] for name in names]
    own = {k.name: k for one in declared for k in one.source_knobs}
    shared = {k.name: k for one in declared for k in one.recipe_knobs}
    return Recipe(
        method or names[0],
        tuple(
            RecipeSource(f"m{i}", {name: value(k, i) for name, k in own.items()}) for i in range(3)
        ),
        "base",
        {n: value(k, 0) if k.kind == "float" else True for n, k in shared.items()},
        seed=5,
    )


def grouped(made: Recipe, *names: str) -> Recipe:
    return dataclasses.replace(made, methods=tuple(zip(SELECTORS, names, strict=True)))


def places(engine: ResidentEngine, made: Recipe) -> list[Place]:
    names = {name: c.tensors for name, c in engine._checkpoints.items()}
    return [target.place for target in layout(made, {n: names[n] for n in made.models})]


@pytest.mark.sample(12)
@pytest.mark.parametrize("method", GROUPED)
def test_the_same_method_in_every_group_is_the_plain_recipe_bit_for_bit(method, engine):
    made = plain(method)
    everywhere = grouped(made, method, method, method)
    one, other = dict(engine.merge(made)), dict(engine.merge(everywhere))
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_every_groups_tensors_are_those_of_its_method_everywhere(engine):
    names = ("ties", "dare_ties", "tsv_m", "linear")
    knobs = plain(*names)
    made = grouped(dataclasses.replace(knobs, method="linear"), *names[:3])
    assert check_recipe(made, METHODS) == []
    alone = {name: dict(engine.merge(_only(knobs, name, METHODS[name].knobs))) for name in names}
    merged = dict(engine.merge(made))
    seen = set()
    for place in places(engine, made):
        deciding = (
            "ties" if place.component == "attention"
            else "dare_ties" if "up_proj" in place.tensor
            else "tsv_m" if place.depth < 0.5
            else "linear"
        )  # fmt: skip
        assert made.method_at(place) == deciding
        assert torch.equal(merged[place.tensor], alone[deciding][place.tensor]), place
        seen.add(deciding)
    assert seen == set(names)


def _only(made: Recipe, method: str, knobs) -> Recipe:
    """The recipe by one method, with the knobs it has."""
    known = {knob.name for knob in knobs}
    return dataclasses.replace(
        made,
        method=method,
        sources=tuple(
            RecipeSource(s.name, {k: v for k, v in s.knobs.items() if k in known})
            for s in made.sources
        ),
        knobs={k: v for k, v in made.knobs.items() if k in known},
    )


def test_the_live_model_and_the_exported_folder_have_the_same_bits(folders, tmp_path):
    checkpoints = {name: open_checkpoint(folder) for name, folder in folders.items()}
    made = grouped(plain("linear", "ties", "dare_ties", "tsv_m"), "ties", "dare_ties", "tsv_m")
    merge_to_folder(made, checkpoints, tmp_path / "out")
    live = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    wanted = {name: p.clone() for name, p in live.named_parameters()}
    engine = ResidentEngine(checkpoints)
    for before in (plain("ties"), made):
        engine.merge_into(live, before)
    assert all(torch.equal(p, wanted[name]) for name, p in live.named_parameters())


def test_only_the_tensors_of_a_group_whose_method_changes_are_merged_again(folders):
    checkpoints = {name: open_checkpoint(folder) for name, folder in folders.items()}
    engine = ResidentEngine(checkpoints)
    live = hf.AutoModelForCausalLM.from_pretrained(folders["base"], dtype=torch.float32)
    made = _only(plain("linear"), "linear", METHODS["linear"].knobs)
    engine.merge_into(live, made)
    changed = dataclasses.replace(made, methods=(("attention", "task_arithmetic"),))
    report = engine.merge_into(live, changed)
    assert report.n_written == sum(p.component == "attention" for p in places(engine, made))


def test_groups_hold_within_slices(engine):
    made = grouped(plain("linear", "ties", "dare_ties"), "ties", "dare_ties", "linear")
    whole = Slice(dict.fromkeys(("base", "m0", "m1", "m2"), (0, 3)))
    one = dict(engine.merge(made))
    other = dict(engine.merge(dataclasses.replace(made, slices=(whole,))))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_switch_by_group_is_that_of_each_groups_tensors(engine):
    made = plain("task_arithmetic")
    merged = {
        on: dict(engine.merge(dataclasses.replace(made, knobs={"normalize": on})))
        for on in (True, False, Profile.of({"mlp": 1.0, DEFAULT: 0.0}))
    }
    mixed = merged.pop(Profile.of({"mlp": 1.0, DEFAULT: 0.0}))
    for place in places(engine, made):
        assert torch.equal(mixed[place.tensor], merged[place.component == "mlp"][place.tensor]), (
            place
        )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"methods": (("mlp", "tise"),)}, "unknown method 'tise'"),
        ({"methods": (("mlp", "slerp"),)}, "slerp takes exactly 2 source(s); got 3"),
        ({"base": None, "methods": (("mlp", "ties"),)}, "ties merges task vectors"),
        ({"knobs": {"weight": Profile.of(1.0)}}, "'weight' is a per-source knob"),
        ({"knobs": {"lamda": Profile.of(1.0)}}, "none of ties or linear has 'lamda'"),
        ({"knobs": {"normalize": Profile.of({"mlp": 0.5, DEFAULT: 1.0})}}, "true or false"),
    ],
)
def test_what_a_group_cannot_do_is_said(change, said):
    made = dataclasses.replace(plain("linear"), methods=(("mlp", "ties"),))
    problems = check_recipe(dataclasses.replace(made, **change), METHODS)
    assert any(said in problem for problem in problems), problems


def test_a_value_has_to_suit_the_methods_that_read_it():
    """OPCM's α is at most 1, that of RAM+ at most 10."""
    sources = tuple(RecipeSource(f"m{i}", {}) for i in range(3))
    made = Recipe("ramplus_tl", sources, "base", methods=(("mlp", "opcm"),))

    def problems(alpha) -> list[str]:
        return check_recipe(dataclasses.replace(made, knobs={"alpha": Profile.of(alpha)}), METHODS)

    assert problems({"mlp": 0.5, DEFAULT: 5.0}) == []
    for alpha in ({"mlp": 5.0, DEFAULT: 0.5}, 5.0, {"attention": 11.0, "mlp": 0.5}):
        assert any("must lie in" in problem for problem in problems(alpha)), alpha


def test_mergekit_has_one_method_for_a_model_and_it_is_said(engine):
    made = dataclasses.replace(plain("linear"), methods=(("mlp", "ties"),))
    models = {name: f"org/{name}" for name in made.models}
    with pytest.raises(ConfigError, match=r"not by ties \(mlp\), linear \(rest\)"):
        to_mergekit(made, models, places(engine, made))
    assert "one method" in mergekit_text(made, models, places(engine, made))
    by_group = dataclasses.replace(
        plain("task_arithmetic"), knobs={"normalize": Profile.of({"mlp": 1.0, DEFAULT: 0.0})}
    )
    with pytest.raises(ConfigError, match="one normalize for the whole model"):
        to_mergekit(by_group, models, places(engine, by_group))


def test_the_exported_folder_holds_what_was_merged(folders, engine, tmp_path):
    checkpoints = {name: open_checkpoint(folder) for name, folder in folders.items()}
    made = dataclasses.replace(plain("linear", "ties"), methods=(("mlp", "ties"),))
    merge_to_folder(made, checkpoints, tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    merged = dict(engine.merge(made))
    assert all(torch.equal(merged[name], tensor) for name, tensor in written.items())
