"""The ready search spaces: each loads, builds a space and can be searched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from automerge.config import load_config
from automerge.methods import METHODS, check_recipe
from automerge.space import CategoricalParameter, Space, SpaceSettings, build_space

SPACES = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))


POOL = next(path for path in SPACES if path.stem == "lora_pool")


def settings_of(path: Path, folder: Path, sources: Sequence[str]) -> SpaceSettings:
    for name in ("base", *sources):
        (folder / name).mkdir(exist_ok=True)
    models = ", ".join(sources)
    study = folder / "study.yaml"
    study.write_text(
        f"base: base\nmodels: [{models}]\ntasks: [gsm8k]\nsearch: {{space: '{path}'}}\n"
    )
    return load_config(study).space_settings()


def space_of(path: Path, folder: Path) -> Space:
    sources = ("math", "code")
    return build_space(settings_of(path, folder, sources), "base", sources, 8, METHODS)


def test_there_are_ready_spaces():
    assert [path.stem for path in SPACES] == [
        "by_group",
        "components",
        "depth",
        "layers",
        "lora_pool",
        "per_layer",
        "quick",
    ]


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
