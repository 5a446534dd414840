"""The recipe, the study and the commands shown in docs/mixtures.md work, on the demo's models."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from automerge import cli
from automerge.config import load_config
from automerge.config.recipe_file import read_recipe
from automerge.evidence import KINDS
from automerge.expert_groups import ExpertGroups
from automerge.mixture import GATES
from automerge.store.read_result import open_study
from automerge.trial import Measured
from tests.docs.pages import commands, lay_out
from tests.docs.test_docs import REPOSITORY


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    lay_out("mixtures.md", tmp_path)
    for name in ("base", "maths", "code"):
        (tmp_path / name).mkdir()
    prompts = {"clock": "clock:04-42=", "sorting": "sort 310072=", "facts": "anna jones likes"}
    for name, text in prompts.items():
        (tmp_path / f"{name}.txt").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("line", commands("mixtures.md"))
def test_a_command_runs(line: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(shlex.split(line)[1:])
    assert ended.value.code == 0, capsys.readouterr().err


def test_the_recipe_and_the_study_are_what_the_page_says(folder: Path) -> None:
    mixture = read_recipe(folder / "mixture.yaml").recipe.mixture
    assert mixture is not None
    assert mixture.layers == (1, 6)
    kept = read_recipe(folder / "kept.yaml").recipe
    shipped = read_recipe(REPOSITORY / "docs/recipes/mixtures/routers_kept.yaml").recipe
    assert kept == shipped
    config = load_config(folder / "study.yaml")
    searched = config.space_settings().mixture
    assert searched is not None
    assert searched.gates == ("uniform", "hidden")


def test_the_page_names_every_kind_of_gates_and_its_evidence() -> None:
    page = (REPOSITORY / "docs/mixtures.md").read_text(encoding="utf-8")
    table = page.split("| `gates` | the gate of an expert |")[1].split("\n\n")[0]
    assert tuple(re.findall(r"^\| `(\w+)`", table, re.M)) == GATES
    assert re.findall(r"--kind (\w+)", page) == ["hidden_state", "routing"]
    assert {"hidden_state", "routing"} <= KINDS.keys()


def run(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(shlex.split(line)[1:])
    printed = capsys.readouterr()
    assert ended.value.code == 0, printed.err
    return printed.out


def fewer_experts() -> list[str]:
    """The commands of the section, in order."""
    page = (REPOSITORY / "docs/mixtures.md").read_text(encoding="utf-8")
    section = page.split("## Fewer experts")[1]
    return re.findall(r"^automerge .*$", section, re.M)


def test_the_experts_of_a_mixture_become_fewer(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, gather, merge, _ = fewer_experts()
    run(first, capsys)
    [printed] = re.findall(r"^  routing: .*$", run(gather, capsys), re.M)
    recipe = folder / "fewer.yaml"
    recipe.write_text(re.sub(r"^  routing: .*$", printed, recipe.read_text(), flags=re.M))
    run(merge, capsys)
    sizes = [(folder / n / "model.safetensors").stat().st_size for n in ("fewer", "mixture")]
    assert sizes[0] < sizes[1]


@pytest.mark.slow
def test_a_search_finds_what_fewer_experts_cost(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *_, search = fewer_experts()
    run(first, capsys)
    recipe = (folder / "mixture.yaml").read_text()
    other = recipe.replace("clock: {weight: 1}", "clock: {weight: 3}")
    (folder / "tuned.yaml").write_text(other)
    run("automerge merge tuned.yaml --out tuned", capsys)
    run(search, capsys)
    with open_study(folder / "runs/fewer_study") as store:
        made = {trial.recipe.experts for trial in store.trials()}
        measured = store.outcomes("search").values()
    assert ExpertGroups(2, "outputs") in made
    assert None in made
    assert {type(outcome) for outcome in measured} == {Measured}
