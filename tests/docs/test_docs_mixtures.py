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
from automerge.mixture import GATES
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
    [kind] = re.findall(r"--kind (\w+)", page)
    assert kind in KINDS
