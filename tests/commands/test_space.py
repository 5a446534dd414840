"""`automerge space`: what a search space holds is told without any model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from automerge import cli
from automerge.config.recipe_file import read_recipe
from automerge.methods import METHODS, check_recipe
from automerge.space.named import FOLDER, NAMED
from tests.zoo import write_zoo


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(["space", *arguments])
    captured = capsys.readouterr()
    assert ended.value.code == 0, captured.err
    return captured.out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(["space", *arguments])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert "Traceback" not in error
    return error


@pytest.mark.sample(6)
@pytest.mark.parametrize("name", NAMED)
def test_every_ready_space_is_shown_with_an_example_that_can_be_merged(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(capsys, "show", name)
    assert re.search(rf"^space +{name}$", text, flags=re.MULTILINE)
    assert re.search(r"^methods? .*\d+ dimensions$", text, flags=re.MULTILINE)
    (tmp_path / "example.yaml").write_text(text.partition("a random draw:\n")[2])
    assert check_recipe(read_recipe(tmp_path / "example.yaml").recipe, METHODS) == []


def test_groups_are_shown_with_their_methods_and_those_with_their_own_knobs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = shown(capsys, "show", "by_group", "--sources", "2", "--layers", "4")
    assert "12 combinations of 14 to 18 dimensions" in text
    lines = [line.strip() for line in text.splitlines()]
    first = lines.index("attention by linear:")
    assert not any("density" in line for line in lines[first : lines.index("attention by ties:")])
    assert "density: one for all sources, in [0.1, 1]" in lines[lines.index("mlp by ties:") :]
    assert "rest by task_arithmetic:" in lines


def test_the_dimensions_are_those_of_the_models_named(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "show", "per_layer", "--sources", "3", "--layers", "5")
    assert "task_arithmetic: 45 dimensions" in text
    assert "weight: 14 deviations per source over attention, mlp, default × 5 depths" in text


def test_conditions_fixed_values_and_switches_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(
        "methods: [ties, slerp]\ndensity: 0.5\nnormalize: [false, true]\nshared: [weight]\n"
        "depth: {knots: 1}\nleave_out: true\nlayers: {drop: 2}\n"
    )
    text = shown(capsys, "show", str(path))
    for said in (
        "weight: one for all sources, in [0, 1]",
        "density: always 0.5",
        "normalize: false or true",
        "lambda: one for the merge, in [0.5, 2]",
        "models: any may be left out, down to 1",
        "models: one of 6 sets of 2",
        "2 dimensions: up to 2 adjacent ones left out",
    ):
        assert said in text


def test_a_study_is_shown_with_its_own_models_first_trials_and_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_zoo(tmp_path)
    text = shown(capsys, "show", str(tmp_path / "automerge.yaml"))
    assert re.search(r"^layers +2$", text, flags=re.MULTILINE)
    assert "base, " in text.partition("first ")[2]
    assert "of each of" in text
    error = refused(capsys, "show", str(tmp_path / "automerge.yaml"), "--sources", "2")
    assert "--sources is for space files" in error


def test_the_list_names_every_space_of_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("second", "first"):
        (tmp_path / f"{name}.yaml").write_text(f"# For the {name}\n# test. No more.\nweight: 1\n")
    (tmp_path / "silent.yaml").write_text("weight: [0, 1]\n# no comment at the top\n")
    first, second, silent, last = shown(capsys, "list", str(tmp_path)).splitlines()
    assert re.fullmatch(r"first +\d+ dimensions  For the first test", first)
    assert re.fullmatch(r"second +\d+ dimensions  For the second test", second)
    assert re.fullmatch(r"silent +\d+ dimensions *", silent)
    assert last == "for 3 sources and 24 layers"
    (tmp_path / "empty").mkdir()
    assert "holds no *.yaml" in refused(capsys, "list", str(tmp_path / "empty"))


def test_the_list_without_a_folder_has_a_line_for_each_space_that_ships(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = shown(capsys, "list").splitlines()
    assert [line.split()[0] for line in lines[:-1]] == list(NAMED)
    assert all(re.fullmatch(r"\w+ +\d+ dimensions  \w.{10,}", line) for line in lines[:-1])
    assert shown(capsys, "list", str(FOLDER)).splitlines() == lines


def test_a_space_that_does_not_ship_is_refused_with_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = refused(capsys, "show", "slerp_pairs")
    assert "unknown search space 'slerp_pairs'; did you mean 'slerp_pair'?" in error


def test_faults_of_a_space_file_are_said_with_their_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("methods: [tie]\n")
    error = refused(capsys, "show", str(path))
    assert "space.yaml:1" in error
    assert "did you mean 'ties'" in error
