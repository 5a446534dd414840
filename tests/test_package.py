"""The wheel, installed where nothing of this repository is, works; and so without its extras."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import automerge

REPOSITORY = Path(__file__).parents[1]
TABLES = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = TABLES["project"]
LEFT_OUT = ("ray", "optuna", "optuna_dashboard", "peft", "mergekit", "automerge", "automerge_llm")
"""What a slim installation does not have, and what it must not have from here."""


def test_the_version_is_that_of_the_project() -> None:
    assert automerge.__version__ == PROJECT["version"]


def test_the_address_is_in_one_place() -> None:
    [address] = PROJECT["urls"].values()
    owner = address.removeprefix("https://")
    listed = subprocess.run(
        ["git", "-C", str(REPOSITORY), "ls-files"], capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    files = [REPOSITORY / name for name in listed.stdout.splitlines()]
    texts = {f: f.read_bytes() for f in files if f.is_file()}
    having = [f.relative_to(REPOSITORY).as_posix() for f, t in texts.items() if owner.encode() in t]
    assert having == ["pyproject.toml"]


def test_both_commands_are_the_same() -> None:
    scripts = PROJECT["scripts"]
    assert scripts[PROJECT["name"]] == scripts["automerge"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment with the wheel, and with what it requires from ours."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    own = next((folder / "lib").glob("python*/site-packages"))
    theirs = next(p for p in sys.path if p.endswith("site-packages"))
    for entry in Path(theirs).iterdir():
        name = entry.name.partition("-")[0].partition(".")[0]
        if name not in LEFT_OUT and entry.suffix != ".pth" and not (own / entry.name).exists():
            (own / entry.name).symlink_to(entry)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")),
            *("install", "--quiet", "--no-deps", "--no-index", str(wheel)),
        ],
        check=True,
        env=plain_environment(),
    )
    return folder / "bin"


def plain_environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}


def run(program: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program), *arguments],
        cwd=folder,
        env=plain_environment() | {"HF_HOME": str(folder / "hf"), "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    names = {n for n in zipfile.ZipFile(wheel).namelist() if n.startswith("automerge/")}
    ours = {
        file.relative_to(REPOSITORY).as_posix()
        for file in (REPOSITORY / "automerge").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert names == ours


@pytest.mark.slow
def test_the_installed_wheel_runs_without_any_extra(installed: Path, tmp_path: Path) -> None:
    where = run(
        installed / "python", "-c", "import automerge; print(automerge.__file__)", folder=tmp_path
    )
    assert where.stdout.startswith(str(installed.parent)), where.stderr
    spaces = run(installed / "automerge-llm", "space", "list", folder=tmp_path)
    assert spaces.returncode == 0, spaces.stderr
    assert "quick" in spaces.stdout
    demo = run(installed / "automerge", "demo", "--dry-run", folder=tmp_path)
    assert demo.returncode == 0, demo.stderr
    assert "study    demo: nothing was kept" in demo.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "extra"), [(["--executor", "ray"], "ray"), (["--sampler", "tpe"], "optuna")]
)
def test_what_needs_an_extra_says_which(
    options: list[str], extra: str, installed: Path, tmp_path: Path
) -> None:
    done = run(installed / "automerge", "search", *options, folder=tmp_path)
    assert done.returncode == 3, done.stderr
    assert f'is not installed: pip install "automerge-llm[{extra}]"' in done.stderr
    assert not (tmp_path / "runs").exists()
