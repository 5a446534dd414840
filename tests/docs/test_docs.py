"""The commands and recipes shown in docs/inspect.md, vocabulary.md and alignment.md work."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from automerge import cli
from automerge.checkpoints.symmetries.roles import FAMILIES
from automerge.config import load_config
from automerge.config.recipe_file import read_recipe
from automerge.files.align import KINDS, align_fault
from automerge.recipe import Vocabulary
from tests.checkpoints.models import WORDS, llama, perturb, save

REPOSITORY = Path(__file__).parents[2]


def blocks(name: str, language: str) -> list[str]:
    text = (REPOSITORY / "docs" / name).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_commands_of_inspect_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "automerge").symlink_to(REPOSITORY / "automerge")
    monkeypatch.chdir(tmp_path)
    for line in "".join(blocks("inspect.md", "sh")).splitlines():
        with pytest.raises(SystemExit) as ended:
            cli.main(shlex.split(line)[1:])
        assert ended.value.code == 0, capsys.readouterr().err
    assert (tmp_path / "inspect.html").is_file()


def test_the_recipe_of_vocabulary_is_read(tmp_path: Path) -> None:
    [text] = blocks("vocabulary.md", "yaml")
    for folder in ("maths", "code"):
        (tmp_path / folder).mkdir()
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    assert read_recipe(path).recipe.vocabulary == Vocabulary("union", "maths", 64)


def test_the_table_of_rooms_names_every_room_and_nothing_else() -> None:
    page = (REPOSITORY / "docs" / "design.md").read_text(encoding="utf-8")
    table = page.split("## Where things are")[1].split("**A reading order**")[0]
    named = set(
        re.findall(r"`([a-z_]+(?:/|\.py))`", "".join(re.findall(r"^\| (.*?) \|", table, re.M)))
    )
    package = REPOSITORY / "automerge"
    rooms = {f"{folder.name}/" for folder in package.iterdir() if (folder / "__init__.py").exists()}
    files = {file.name for file in package.glob("*.py")} - {"__init__.py"}
    assert named == rooms | files


def test_every_file_of_the_reading_order_exists() -> None:
    page = (REPOSITORY / "docs" / "design.md").read_text(encoding="utf-8")
    order = page.split("**A reading order**")[1].split("\n\n")[0]
    for name in re.findall(r"`([a-z_/]+(?:\.py|/))`", order):
        assert (REPOSITORY / "automerge" / name).exists(), name


def test_the_study_and_the_recipe_of_alignment_are_read(tmp_path: Path) -> None:
    study, recipe, matched = blocks("alignment.md", "yaml")
    (tmp_path / "fine-tune").mkdir()
    (tmp_path / "calibration.txt").write_text("w1")
    path = tmp_path / "study.yaml"
    path.write_text(study)
    assert load_config(path).align == {"other": "git_rebasin"}
    path.write_text(matched)
    assert load_config(path).align == {"other": "activation_matching"}
    path.write_text(recipe)
    assert read_recipe(path).align == {"other": "rotation_fusion"}


def test_the_command_of_alignment_prints_what_a_recipe_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name in ("base", "other"):
        save(perturb(llama(), len(name), 0.1), tmp_path / name)
    (tmp_path / "calibration.txt").write_text(" ".join(WORDS))
    [command] = blocks("alignment.md", "sh")
    with pytest.raises(SystemExit) as ended:
        cli.main(shlex.split(command)[1:])
    printed = capsys.readouterr()
    assert ended.value.code == 0, printed.err
    found = yaml.safe_load(printed.out)
    assert [*found["align"]] == ["other"]
    assert align_fault(found["align"]["other"]) is None


def test_alignment_names_every_kind_and_architecture() -> None:
    page = (REPOSITORY / "docs/alignment.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)`", page, flags=re.MULTILINE) == list(KINDS)
    [listed] = re.findall(r"Supported are the architectures (.*?)\. Others", page, flags=re.DOTALL)
    assert re.findall(r"`(\w+)`", listed) == sorted(FAMILIES)
