"""The ready search spaces: each loads, builds a space and can be searched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from automerge.config import load_config
from automerge.methods import METHODS, check_recipe
from automerge.space import CategoricalParameter, build_space

SPACES = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))


def space_of(path: Path, folder: Path):
    for name in ("base", "math", "code"):
        (folder / name).mkdir(exist_ok=True)
    study = folder / "study.yaml"
    study.write_text(
        f"base: base\nmodels: [math, code]\ntasks: [gsm8k]\nsearch: {{space: '{path}'}}\n"
    )
    config = load_config(study)
    return build_space(config.space_settings(), "base", ("math", "code"), 8, METHODS)


def test_there_are_ready_spaces():
    assert [path.stem for path in SPACES] == ["components", "depth", "layers", "per_layer", "quick"]


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_a_ready_space_builds_recipes_that_can_be_merged(path, tmp_path):
    space = space_of(path, tmp_path)
    generator = np.random.default_rng(0)

    def choose(parameter):
        if isinstance(parameter, CategoricalParameter):
            return generator.choice(parameter.choices)
        return parameter.at_fraction(generator.random())

    for _ in range(20):
        assert check_recipe(space.recipe(space.walk(choose)), METHODS) == []


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_a_ready_space_says_what_it_is_for(path):
    assert path.read_text().startswith("# ")
