"""Models that change while a study runs, and run folders that move: whole commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from automerge.store.file import put
from automerge.store.store import Store
from automerge.trial import PARTS
from tests.commands.test_search import AUTOMERGE, content, environment, run  # noqa: F401  a fixture
from tests.zoo import write_zoo

WEIGHTS = Path("left") / "model.safetensors"
MODELS = ("base", "left", "right", "adapter")
SIDE_BY_SIDE = {f"../../{name}" for name in MODELS}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zoo(tmp_path_factory.mktemp("original")).parent


@pytest.fixture
def zoo(original: Path, tmp_path: Path) -> Path:
    """A zoo of the test's own, to spoil."""
    return shutil.copytree(original, tmp_path / "zoo")


def overwrite(file: Path) -> None:
    file.write_bytes(file.parents[1].joinpath("right", file.name).read_bytes())


def rename_over(file: Path) -> None:
    shutil.copy(file.parents[1] / "right" / file.name, file.with_name("other"))
    file.with_name("other").rename(file)


def truncate(file: Path) -> None:
    os.truncate(file, 3000)


def flip_and_restore_the_time(file: Path) -> None:
    before = file.stat()
    with file.open("r+b") as stream:
        stream.seek(-100, os.SEEK_END)
        byte = stream.read(1)[0]
        stream.seek(-100, os.SEEK_END)
        stream.write(bytes([byte ^ 1]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


RAY = ("--executor", "ray", "--workers", "1")
SLOW = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "options"),
    [
        (overwrite, ()),
        pytest.param(rename_over, (), marks=SLOW),
        pytest.param(truncate, (), marks=SLOW),
        pytest.param(flip_and_restore_the_time, (), marks=SLOW),
        pytest.param(overwrite, RAY, marks=SLOW),
        pytest.param(truncate, RAY, marks=SLOW),
    ],
)
def test_a_model_that_changes_ends_the_study_with_what_to_do(
    zoo: Path,
    environment: dict[str, str],  # noqa: F811
    change: Callable[[Path], None],
    options: tuple[str, ...],
) -> None:
    child = subprocess.Popen(
        [*AUTOMERGE, "search", "--budget", "500", *options],
        cwd=zoo,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("searching"):
            break
    right = (zoo / WEIGHTS).read_bytes()
    change(zoo / WEIGHTS)
    _, said = child.communicate()
    assert child.returncode == 4, said
    # A file cut short while a merge reads it ends the process from within the system.
    cut = change is truncate and "it was truncated" in said
    assert cut or "the files of 'left' in" in said
    assert "back and run the same command" in said.replace("put it", "put them")
    assert "Traceback" not in said
    assert not (zoo / "runs" / "tiny" / "models").exists()
    (zoo / WEIGHTS).write_bytes(right)
    done = run(zoo, environment, "search", "--budget", "9", "--export", "none")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
    original: Path,
    environment: dict[str, str],  # noqa: F811
) -> Path:
    """A zoo with a finished study in it."""
    zoo = shutil.copytree(original, tmp_path_factory.mktemp("finished") / "zoo")
    done = run(zoo, environment, "search", "--export", "none")
    assert done.returncode == 0, done.stderr
    return zoo


@pytest.mark.slow
def test_nothing_is_exported_of_models_that_changed(
    finished: Path,
    environment: dict[str, str],  # noqa: F811
    tmp_path: Path,
) -> None:
    """Where no other copy of the model is known on this machine."""
    environment = {**environment, "XDG_CACHE_HOME": str(tmp_path)}
    right = (finished / WEIGHTS).read_bytes()
    flip_and_restore_the_time(finished / WEIGHTS)
    try:
        refused = run(finished, environment, "export", "runs/tiny", "--trial", "4")
    finally:
        (finished / WEIGHTS).write_bytes(right)
    assert refused.returncode == 4
    assert "the files of 'left' in" in refused.stderr
    assert list((finished / "runs" / "tiny").glob("models/*")) == []


@pytest.mark.slow
def test_a_study_whose_sampler_is_not_there_says_which(
    finished: Path,
    environment: dict[str, str],  # noqa: F811
    tmp_path: Path,
) -> None:
    out = shutil.copytree(finished / "runs" / "tiny", tmp_path / "run")
    with Store(out, write=True) as store:
        other = replace(store.study.begun, sampler="cmae")
        with store._transaction() as db:
            put(db, "begun", json.dumps(other.plain()))
    refused = run(finished, environment, "search", "--out", str(out), "--budget", "10")
    assert refused.returncode == 5
    assert "its sampler: unknown sampler 'cmae'; did you mean 'cma'?; use the" in refused.stderr


def measured(study: Path) -> int:
    with Store(study, write=False) as store:
        return sum(len(store.outcomes(part)) for part in PARTS)


@pytest.mark.slow
def test_a_study_moved_with_its_models_goes_on_where_it_now_lies(
    finished: Path,
    environment: dict[str, str],  # noqa: F811
    tmp_path: Path,
) -> None:
    """Nothing is left at the old place, so whatever still points there fails."""
    moved = tmp_path / "elsewhere" / "zoo"
    shutil.copytree(finished, moved)
    before = content(moved / "runs" / "tiny")
    finished.rename(hidden := finished.with_name("hidden"))
    try:
        exported = run(moved, environment, "export", "runs/tiny", "--trial", "4")
        assert exported.returncode == 0, exported.stderr
        again = run(moved, environment, "search", "--export", "none")
        assert again.returncode == 0, again.stderr
        assert content(moved / "runs" / "tiny") == before
        more = run(moved, environment, "search", "--export", "none", "--budget", "11")
        assert more.returncode == 0, more.stderr
    finally:
        hidden.rename(finished)
    for file in (moved / "runs" / "tiny" / "tasks").glob("*.yaml"):
        assert str(finished) not in file.read_text()
    with Store(moved / "runs" / "tiny", write=False) as store:
        assert store.counts()["measured"] == 11
        assert {model.reference for model in store.study.current.models} == SIDE_BY_SIDE


@pytest.mark.slow
def test_a_run_folder_alone_may_move_and_models_be_named_elsewhere(
    finished: Path,
    environment: dict[str, str],  # noqa: F811
    tmp_path: Path,
) -> None:
    out = shutil.copytree(finished / "runs" / "tiny", tmp_path / "run")
    models = tmp_path / "models"
    for name in MODELS:
        shutil.copytree(finished / name, models / name)
    named = [f"--model={name}={models / name}" for name in ("left", "right", "adapter")]
    options = ("--out", str(out), "--base", str(models / "base"), *named, "--export", "none")
    refused = run(
        finished, environment, "search", "automerge.yaml", "--out", str(out),
        f"--model=left={models / 'right'}", f"--model=right={models / 'left'}", named[2],
    )  # fmt: skip
    assert refused.returncode == 2, refused.stderr
    assert "models.left was" in refused.stderr
    assert "holds another model" in refused.stderr
    done = run(finished, environment, "search", "automerge.yaml", *options, "--budget", "10")
    assert done.returncode == 0, done.stderr
    with Store(out, write=False) as store:
        assert store.counts()["measured"] == 10
        assert {model.reference for model in store.study.current.models} == {
            f"../models/{name}" for name in MODELS
        }
