"""The files and commands shown in docs/mergekit.md work, on the demo's models."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from safetensors.torch import load_file

from automerge import cli
from automerge.checkpoints import places
from automerge.config.recipe_file import read_recipe
from tests.docs.pages import commands, lay_out
from tests.docs.test_docs import REPOSITORY, blocks


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    lay_out("mergekit.md", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("line", commands("mergekit.md"))
def test_a_command_runs(line: str, folder: Path, capsys: pytest.CaptureFixture[str]):
    command = ["6" if word == "40" else word for word in shlex.split(line)]
    with pytest.raises(SystemExit) as ended:
        cli.main(command[1:])
    assert ended.value.code == 0, capsys.readouterr().err
    if "stack.yaml" in command:
        tensors = load_file(folder / "deeper/model.safetensors")
        assert max(place.layer or 0 for place in places(tensors).values()) == 8
    if "search" in command:
        assert "note: weights of tasks (1, 0.5)" in capsys.readouterr().out
        assert (folder / "runs/genome/report.html").is_file()


def test_what_is_converted_is_the_same(folder: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        cli.main(["convert", "ties.yml"])
    (folder / "again.yaml").write_text(capsys.readouterr().out)
    assert read_recipe(folder / "again.yaml").recipe == read_recipe(folder / "ties.yml").recipe


def test_every_key_of_mergekit_is_in_the_tables():
    from automerge.mergekit.evolve import GENOME_KEYS
    from automerge.mergekit.evolve import KEYS as EVOLVE_KEYS
    from automerge.mergekit.tables import KEYS

    text = re.sub("```.*?```", "", (REPOSITORY / "docs/mergekit.md").read_text(), flags=re.DOTALL)
    names = {
        name for quoted in re.findall(r"`([^`]+)`", text) for name in re.findall(r"\w+", quoted)
    }
    names |= {name for block in blocks("mergekit.md", "yaml") for name in re.findall(r"\w+", block)}
    assert {*KEYS, *EVOLVE_KEYS, *GENOME_KEYS} - {"name"} <= names
