"""The commands of docs/choosing.md run on a study, and wrong ones are answered in one line."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from automerge import cli
from tests.studies import toy_study

PAGE = (Path(__file__).parents[2] / "docs" / "choosing.md").read_text(encoding="utf-8")
NAMES = {"demo_clock": "first", "demo_facts": "second"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("choosing")
    toy_study(folder / "runs" / "demo", 16)
    return folder


def run(arguments: list[str]) -> object:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return ended.value.code


def commands() -> list[list[str]]:
    """The commands shown, but for `export`: a toy study has no models to merge."""
    text = "".join(re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL))
    for shown, name in NAMES.items():
        text = text.replace(shown, name)
    shown = [shlex.split(line)[1:] for line in text.splitlines()]
    return [words for words in shown if words[0] != "export"]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_the_commands_run(
    words: list[str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    assert run(words) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.strip()


def test_runs_are_listed_for_programs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", str(folder / "runs"), "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row["run"] == str(folder / "runs" / "demo")
    assert row["trials"] == 16


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["pick", "runs/demo", "--prefer", "frist=1"], 2, "choose from first, second"),
        (["pick", "runs/demo", "--prefer", "first"], 2, "write NAME=NUMBER"),
        (["pick", "nowhere"], 5, "contains no study"),
        (["show", "nowhere"], 5, "contains no study"),
        (["runs", "nowhere"], 5, "contains no study"),
        (["export", "runs/demo", "--trial", "trial-99"], 2, "has no trial trial-99"),
    ],
)
def test_wrong_words_are_answered(
    words: list[str],
    code: int,
    says: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    assert run(words) == code
    assert says in capsys.readouterr().err
