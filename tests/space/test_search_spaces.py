"""The ready search spaces: each loads, builds a space and can be searched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from automerge.config import load_config
from automerge.methods import METHODS, check_recipe
from automerge.recipe import Profile, Recipe, RecipeSource
from automerge.samplers.random import draw
from automerge.space import CategoricalParameter, Space, SpaceSettings, build_space
from automerge.space.named import NAMED, purpose, space_file


def settings_of(name: str, folder: Path, sources: Sequence[str]) -> SpaceSettings:
    for model in ("base", *sources):
        (folder / model).mkdir(exist_ok=True)
    models = ", ".join(sources)
    study = folder / "study.yaml"
    study.write_text(f"base: base\nmodels: [{models}]\ntasks: [gsm8k]\nsearch: {name}\n")
    return load_config(study).space_settings()


def space_of(name: str, folder: Path) -> Space:
    sources = ("math", "code")
    return build_space(settings_of(name, folder, sources), "base", sources, 8, METHODS)


def test_there_are_ready_spaces():
    assert list(NAMED) == [
        "by_group",
        "checkpoints",
        "components",
        "crossover",
        "dataflow",
        "density_depth",
        "depth",
        "depth_up",
        "layers",
        "lora_pool",
        "lorahub",
        "many_sources",
        "mixture",
        "per_layer",
        "quick",
        "slerp_pair",
        "smaller",
        "swap",
    ]


@pytest.mark.parametrize("name", NAMED)
def test_a_ready_space_builds_recipes_that_can_be_merged(name, tmp_path):
    space = space_of(name, tmp_path)
    generator = np.random.default_rng(0)

    def choose(parameter):
        if isinstance(parameter, CategoricalParameter):
            return generator.choice(parameter.choices)
        return parameter.at_fraction(generator.random())

    for _ in range(20):
        assert check_recipe(space.recipe(space.walk(choose)), METHODS) == []


@pytest.mark.parametrize("name", NAMED)
def test_a_ready_space_says_in_a_sentence_what_it_is_for(name):
    assert 20 < len(purpose(space_file(name).read_text())) < 120


def test_the_usual_gradient_of_a_pair_lies_in_its_space(tmp_path):
    """mergekit's example for SLERP: `t` by component at five depths."""
    space = space_of("slerp_pair", tmp_path)
    usual = Recipe(
        "slerp",
        (RecipeSource("math", {}), RecipeSource("code", {})),
        None,
        {
            "t": Profile.of(
                {
                    "attention": [0, 0.5, 0.3, 0.7, 1],
                    "mlp": [1, 0.5, 0.7, 0.3, 0],
                    "default": 0.5,
                }
            )
        },
    )
    assert space.params(usual) is not None


def test_layers_are_only_left_out_by_one_and_only_run_twice_by_the_other(tmp_path):
    generator = np.random.default_rng(0)
    for name, allowed in (("smaller", range(-4, 1)), ("depth_up", range(7))):
        space = space_of(name, tmp_path)
        structure = space.structure
        assert structure is not None
        found = set()
        for _ in range(200):
            recipe = space.recipe(draw(space, generator))
            spans = [next(iter(part.layers.values())) for part in recipe.slices]
            found.add(sum(last - first for first, last in spans) - 8 if spans else 0)
        assert found == set(allowed)
