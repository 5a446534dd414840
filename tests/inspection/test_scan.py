"""`automerge inspect --scan`: scores on the line between two models."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from automerge import cli
from automerge.checkpoints import open_checkpoint
from automerge.inspection.scan import by_layer, line, on_line
from automerge.merging import merge_to_folder
from automerge.objective import ItemScores, Objective
from tests.checkpoints.models import llama, perturb, save
from tests.kinds import make_classifier, write_models
from tests.zoo import write_tasks, write_zoo

ACCURACY = Objective("t", "t", "acc", "none", "maximize")


def scores(*values):
    return ItemScores(tuple(("t", doc) for doc in range(len(values))), tuple(map(float, values)))


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_a_barrier_is_the_largest_height_over_the_straight_line_with_its_paired_error(direction):
    rng = np.random.default_rng(0)
    rows = {at: rng.random(30) + 0.3 * at for at in (0.0, 0.25, 0.5, 0.75, 1.0)}
    objective = Objective("t", "t", "x", "none", direction)
    found = line(objective, None, {at: scores(*row) for at, row in rows.items()})
    sign = -1 if direction == "maximize" else 1
    heights = {
        at: sign * (row - (1 - at) * rows[0.0] - at * rows[1.0])
        for at, row in rows.items()
        if 0 < at < 1
    }
    top = max(heights, key=lambda at: heights[at].mean())
    assert (found.top, found.barrier) == (top, pytest.approx(heights[top].mean()))
    assert found.stderr == pytest.approx(heights[top].std(ddof=1) / np.sqrt(30))
    assert [p.at for p in found.points] == sorted(rows)


def test_scores_that_fall_on_the_way_are_a_barrier_and_those_that_rise_are_none():
    ends = scores(1, 1, 1, 0)
    assert line(ACCURACY, 0, {0.0: ends, 0.5: scores(0, 1, 0, 0), 1.0: ends}).barrier == 0.5
    assert line(ACCURACY, 0, {0.0: ends, 0.5: scores(1, 1, 1, 1), 1.0: ends}).barrier == -0.25


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    # More than ten layers: the name of layer 1 begins those of layers 10 and 11.
    shape = {"num_hidden_layers": 12, "hidden_size": 8, "num_attention_heads": 2}
    return {
        name: save(perturb(llama(**shape, num_key_value_heads=1), seed, 0.1), root / name)
        for seed, name in enumerate(("base", "other"))
    }


@pytest.mark.parametrize("layer", [None, 1, 11])
def test_only_the_layer_that_is_scanned_moves(models, tmp_path, layer):
    opened = {name: open_checkpoint(folder) for name, folder in models.items()}
    layers = by_layer(list(opened["base"].tensors))
    assert list(layers) == list(range(12))
    recipe = on_line("base", "other", 0.25, None if layer is None else layers[layer])
    merge_to_folder(recipe, opened, tmp_path / "out")
    got = load_file(tmp_path / "out" / "model.safetensors")
    a, b = (load_file(folder / "model.safetensors") for folder in models.values())
    for name, tensor in got.items():
        moves = layer is None or f"layers.{layer}." in name
        expected = 0.75 * a[name] + 0.25 * b[name] if moves else a[name]
        torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-6)


def test_the_command_scores_each_line_and_draws_it(tmp_path, capsys):
    write_zoo(tmp_path)
    page = tmp_path / "page.html"
    with pytest.raises(SystemExit) as ended:
        cli.main(
            [
                *("inspect", str(tmp_path / "base"), f"right={tmp_path / 'right'}", "--json"),
                *("--scan", "choose", "--include-path", str(tmp_path / "tasks")),
                *("--items", "24", "--html", str(page), "--device", "cpu"),
            ]
        )
    assert ended.value.code == 0
    (scan,) = json.loads(capsys.readouterr().out)["scans"]
    assert (scan["source"], scan["objective"], scan["n_items"]) == ("right", "choose", 24)
    whole, *layers = scan["lines"]
    assert whole["layer"] is None
    assert [p["at"] for p in whole["points"]] == [0, 0.25, 0.5, 0.75, 1]
    assert [found["layer"] for found in layers] == list(range(len(layers)))
    assert all(found["points"][0] == whole["points"][0] for found in layers)
    assert len({p["value"] for found in scan["lines"] for p in found["points"]}) > 1
    text = page.read_text()
    assert "<polyline" in text
    assert text.count("layer 0: barrier") >= 1


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("choose", "task 'choose': lm-eval scores language models, and BertForSequence"),
        ("nothing", "there is no task 'nothing'"),
        ("choose:acc:up", 'unknown value "up"'),
    ],
)
def test_a_task_that_cannot_be_scored_is_refused_at_the_option_that_names_it(
    tmp_path, capsys, task, says
):
    write_models(tmp_path, make_classifier())
    write_tasks(tmp_path / "tasks")
    with pytest.raises(SystemExit) as ended:
        cli.main(
            [
                *("inspect", str(tmp_path / "base"), f"right={tmp_path / 'right'}"),
                *("--scan", task, "--include-path", str(tmp_path / "tasks")),
            ]
        )
    assert ended.value.code == (2 if task.endswith(":up") else 3)
    assert f"automerge: --scan: {says}" in " ".join(capsys.readouterr().err.split())
