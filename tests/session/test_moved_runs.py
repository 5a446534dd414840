"""Run folders on other machines and disks: every command works, and nothing says where it was."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.command_line import automerge, surroundings
from tests.commands.test_search import content
from tests.zoo import write_zoo

pytestmark = pytest.mark.slow

MODELS = ("base", "left", "right", "adapter")


def machine(folder: Path, user: str) -> dict[str, str]:
    """The surroundings of a user whose models are on a disk that is not near the home."""
    home = folder / "homes" / user
    home.mkdir(parents=True, exist_ok=True)
    return surroundings(HOME=str(home), HF_HOME=str(folder / "hf"), XDG_CACHE_HOME="")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk with a zoo, and somebody's home with a finished study of it and an exported model."""
    place = tmp_path_factory.mktemp("machine")
    (place / "disk").mkdir()
    zoo = write_zoo(place / "disk").parent
    me = machine(place, "me")
    out = place / "homes" / "me" / "runs" / "tiny"
    done = automerge(zoo, "search", "--out", str(out), "--export", "none", environment=me)
    assert done.returncode == 0, done.stderr
    done = automerge(out, "export", ".", "--trial", "5", environment=me)
    assert done.returncode == 0, done.stderr
    return place


def test_no_file_says_where_this_machine_keeps_things(place: Path) -> None:
    run = place / "homes" / "me" / "runs" / "tiny"
    files = {p.relative_to(run).as_posix(): p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert {"study.sqlite", "automerge.yaml", "report.html", "front.json"} <= set(files)
    assert [name for name, text in files.items() if str(place).encode() in text] == []
    assert b"local:left@" in files["automerge.yaml"]
    assert any(name.endswith("/mergekit.yaml") for name in files)


def test_an_exported_recipe_merges_again_where_the_models_are_known(place: Path) -> None:
    me = machine(place, "me")
    [folder] = (place / "homes" / "me" / "runs" / "tiny" / "models").iterdir()
    done = automerge(folder, "merge", "recipe.yaml", "--out", str(place / "again"), environment=me)
    assert done.returncode == 0, done.stderr
    weights = "model.safetensors"
    assert (place / "again" / weights).read_bytes() == (folder / weights).read_bytes()


@pytest.mark.slow
def test_another_machine_reads_exports_and_resumes_a_copied_run(
    place: Path, tmp_path: Path
) -> None:
    you = machine(tmp_path, "you")
    run = tmp_path / "homes" / "you" / "copied"
    shutil.copytree(place / "homes" / "me" / "runs" / "tiny", run)
    shutil.rmtree(run / "models")
    for words in (("status",), ("show",), ("pick",), ("report",)):
        done = automerge(tmp_path, *words, str(run), environment=you)
        assert done.returncode == 0, (words, done.stderr)
    lost = automerge(tmp_path, "export", str(run), "--trial", "5", environment=you)
    assert lost.returncode == 3
    assert "say where it is: --model left=FOLDER" in lost.stderr
    unknown = automerge(tmp_path, "search", str(run / "automerge.yaml"), environment=you)
    assert unknown.returncode == 2
    assert "automerge.yaml:" in unknown.stderr
    assert "does not know where the model 'left'" in unknown.stderr
    for name in MODELS:
        shutil.copytree(place / "disk" / name, tmp_path / "usb" / name)
    given = [f"--model={name}={tmp_path / 'usb' / name}" for name in MODELS]
    found = automerge(tmp_path, "export", str(run), "--trial", "5", *given, environment=you)
    assert found.returncode == 0, found.stderr
    before = content(run)
    words = ("search", str(run / "automerge.yaml"), "--export", "none")
    again = automerge(tmp_path, *words, environment=you)
    assert again.returncode == 0, again.stderr
    assert content(run) == before
    more = automerge(tmp_path, *words, "--budget", "10", environment=you)
    assert more.returncode == 0, more.stderr
    assert content(run)[0][:9] == before[0][:9]  # type: ignore[index]
