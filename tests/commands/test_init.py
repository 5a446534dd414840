"""`automerge init` writes a file that a search takes, whatever it begins with."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from pathlib import Path

import pytest

from automerge import cli
from automerge.config import StudyConfig, load_config
from automerge.config.starter import KEYS
from tests.command_line import AUTOMERGE, surroundings

OPTIONS = ("--base", "./base", "--model", "left=./left", "--task", "choose")
ORDER = ("base", "models", "include_path", "tasks", "budget")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("base", "left", "right", "own"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["init", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def settings(config: StudyConfig) -> dict[str, object]:
    return {key: value for key, value in config.to_plain().items() if key not in ("name", "out")}


def test_the_file_says_what_the_options_said(folder: Path) -> None:
    more = ("--task", "say:exact_match", "--model", "./right", "--include-path", "own")
    assert init(*OPTIONS, *more, "--budget", "7") == 0
    found = load_config(folder / "automerge.yaml")
    assert found.references == {n: str(folder / n) for n in ("base", "left", "right")}
    assert [(task.task, task.metric, task.name) for task in found.tasks] == [
        ("choose", None, "choose"),
        ("say", "exact_match", "say"),
    ]
    assert found.include_path == str(folder / "own")
    assert found.budget == 7
    text = (folder / "automerge.yaml").read_text()
    assert str(folder) not in text
    assert [line.split(":")[0] for line in text.splitlines() if re.match("[a-z]", line)] == [*ORDER]


def test_comments_hold_the_defaults(folder: Path) -> None:
    assert init(*OPTIONS) == 0
    text = (folder / "automerge.yaml").read_text()
    uncommented = re.sub(r"^#(?=[^ ]|  )", "", text, flags=re.MULTILINE)
    (folder / "all.yaml").write_text(uncommented)
    assert settings(load_config(folder / "all.yaml")) == settings(
        load_config(folder / "automerge.yaml")
    )
    written = set(re.findall(r"^(\w+):", uncommented, flags=re.MULTILINE))
    assert written == {key.name for key in KEYS if key.default or key.name in ORDER} - {
        "include_path"
    }
    assert {key.name for key in KEYS} <= set(StudyConfig.model_fields)


def test_local_models_are_named_from_where_the_file_lies(folder: Path) -> None:
    (folder / "studies").mkdir()
    assert init("studies/first.yaml", *OPTIONS) == 0
    assert "../base" in (folder / "studies" / "first.yaml").read_text()
    assert load_config(folder / "studies" / "first.yaml").base == str(folder / "base")


def test_a_file_that_is_there_stays(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "automerge.yaml").write_text("mine")
    assert init(*OPTIONS) == 2
    assert "--force" in capsys.readouterr().err
    assert (folder / "automerge.yaml").read_text() == "mine"
    assert init(*OPTIONS, "--force") == 0
    assert load_config(folder / "automerge.yaml").base == str(folder / "base")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "missing: --base, --model, --task"),
        (("--base", "./base"), "missing: --model, --task"),
        (("--base", "./none", *OPTIONS[2:]), "--base: no such folder"),
        ((*OPTIONS, "--budget", "many"), "--budget: expected a whole number"),
        (("--from", "none.yaml"), "none.yaml does not exist"),
        (("none/automerge.yaml", *OPTIONS), "no such folder"),
        ((*OPTIONS, "--task", "choose"), "choose"),
    ],
)
def test_what_is_missing_or_wrong_is_said_and_nothing_written(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    before = sorted(folder.iterdir())
    assert init(*arguments) == 2
    assert said in capsys.readouterr().err
    assert sorted(folder.iterdir()) == before


EVOLVE = """
genome:
  models: [./left, ./right]
  base_model: ./base
  merge_method: ties
  filters: [mlp]
tasks: [{name: choose, weight: 1.0}, {name: say, weight: -0.5, metric: "exact_match,none"}]
limit: 50
num_fewshot: 2
"""


def test_a_file_for_evolve_becomes_the_same_study(folder: Path) -> None:
    (folder / "evolve.yml").write_text(EVOLVE)
    assert init("--from", "evolve.yml") == 0
    text = (folder / "automerge.yaml").read_text()
    assert settings(load_config(folder / "automerge.yaml")) == settings(load_config("evolve.yml"))
    assert "weights of tasks" in text
    assert str(folder) not in text


def test_a_recipe_gives_its_models_and_is_measured(folder: Path) -> None:
    (folder / "ties.yaml").write_text(
        "merge_method: ties\nbase_model: ./base\ndtype: float32\n"
        "models: [{model: ./left, parameters: {weight: 0.5, density: 0.5}}, {model: ./right}]\n"
        "parameters: {weight: 1}\n"
    )
    assert init("--from", "ties.yaml", "--task", "choose") == 0
    found = load_config(folder / "automerge.yaml")
    assert found.references == {n: str(folder / n) for n in ("base", "left", "right")}
    [named] = found.recipes
    assert named.name == "ties"
    assert named.recipe.sources[0].name == "left"


def test_a_recipe_that_a_study_cannot_measure_is_left_out(folder: Path) -> None:
    (folder / "union.yaml").write_text(
        "recipe: 1\nmodels: {base: ./base, left: ./left}\nmethod: linear\nbase: base\n"
        "sources: {left: {}}\ntokenizer: union\n"
    )
    assert init("--from", "union.yaml", "--task", "choose") == 0
    assert load_config(folder / "automerge.yaml").recipes == ()
    assert "remove `tokenizer`" in (folder / "automerge.yaml").read_text().replace("\n# ", " ")


def on_a_terminal(folder: Path, answers: str) -> tuple[int, str]:
    """Run `automerge init` on a terminal where all answers have been typed already."""
    master, slave = pty.openpty()
    os.write(master, answers.encode())
    command = subprocess.Popen(
        [*AUTOMERGE, "init"],
        cwd=folder,
        env=surroundings(),
        stdin=slave,
        stdout=slave,
        stderr=subprocess.STDOUT,
    )
    os.close(slave)
    shown = b""
    try:
        while piece := os.read(master, 4096):
            shown += piece
    except OSError:  # the other end has closed
        pass
    os.close(master)
    return command.wait(), shown.decode()


def test_on_a_terminal_it_asks_until_answers_can_be_used(folder: Path) -> None:
    answers = "./nowhere\n./base\nleft=./left\nfar=./nowhere\n\nchoose, say:exact_match\n"
    code, shown = on_a_terminal(folder, answers)
    assert code == 0, shown
    assert shown.count("no such folder") == 2
    found = load_config(folder / "automerge.yaml")
    assert found.references == {"base": str(folder / "base"), "left": str(folder / "left")}
    assert [task.name for task in found.tasks] == ["choose", "say"]


def test_answers_that_end_early_write_nothing(folder: Path) -> None:
    code, shown = on_a_terminal(folder, "./base\n\x04")
    assert code == 2
    assert "nothing was written" in shown
    assert not (folder / "automerge.yaml").exists()
