"""The merge benchmark runs, and says what it measured."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from automerge.bench.merge import bench_merge, varied
from automerge.bench.shapes import SIZES, Size, empty_model, random_models
from automerge.cli import app
from automerge.errors import ConfigError
from automerge.methods import METHODS, check_recipe
from tests.methods.dataless import DATALESS

SMALL = Size(32, 64, 2, 4, 2, 100, tied=True)


def test_random_models_have_the_tensors_and_size_of_the_shape():
    model = empty_model(SMALL)
    models = random_models(model, 2)
    assert list(models) == ["base", "source1", "source2"]
    n = sum(info.n_elements for info in models["base"].tensors.values())
    assert n == model.num_parameters()
    assert n == pytest.approx(SMALL.n_parameters, rel=0.05)
    assert models["source1"].read("model.norm.weight").std() > 0


@pytest.mark.parametrize("name", DATALESS)
def test_recipes_of_the_benchmark_are_valid_and_differ_from_turn_to_turn(name):
    method = METHODS[name]
    made = [varied(method, min(3, method.max_sources or 3), turn) for turn in range(3)]
    assert all(check_recipe(recipe, METHODS) == [] for recipe in made)
    if any(knob.search for knob in method.knobs):
        assert len({recipe.id for recipe in made}) == 3


def test_moved_bytes_are_those_read_and_written(monkeypatch):
    monkeypatch.setitem(SIZES, "small", SMALL)
    n = empty_model(SMALL).num_parameters()
    linear, ties = bench_merge("small", 3, ("linear", "ties"), 1)
    assert (linear.moved, ties.moved) == (2 * n * 4, 2 * n * 5)
    assert ties.ratio == pytest.approx(ties.merge / ties.copy)


def test_command_prints_json_and_refuses_what_it_does_not_know(monkeypatch):
    monkeypatch.setitem(SIZES, "small", SMALL)
    arguments = ["bench", "merge", "--shape", "small", "--method", "linear", "--repeats", "1"]
    printed = CliRunner().invoke(app, [*arguments, "--json"])
    assert [t["method"] for t in json.loads(printed.stdout)["times"]] == ["linear"]
    refused = CliRunner().invoke(app, [*arguments, "--method", "tiez", "--sources", "1"])
    assert isinstance(refused.exception, ConfigError)
    assert len(refused.exception.faults) == 2
