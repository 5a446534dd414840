"""The run folder of a study: made for a new one, and removed again if the study is refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from automerge.config import StudyConfig
from automerge.config.written import FILE as STUDY
from automerge.config.written import RECIPES, written
from automerge.errors import ConfigError, PreflightError
from automerge.evaluation.base import ITEMS_FOLDER, TASKS_FOLDER
from automerge.files.atomic import write_atomically
from automerge.store.file import FILE
from automerge.store.record import StudyModel
from automerge.store.run_folder import LOCK, LOG, OWNER
from automerge.store.store import exists

SAMPLES = "test_samples.json"
COPIES = (TASKS_FOLDER, ITEMS_FOLDER)


def check_folder(run: Path) -> None:
    """Refuse a run folder that is a file, holds something else, or cannot be written."""
    if run.is_dir():
        if not exists(run) and any(run.iterdir()):
            raise ConfigError(
                f"{run} is not empty and contains no study; choose another --out or empty it"
            )
    elif run.exists() or run.is_symlink():
        raise ConfigError(f"{run} is a file; give a folder as --out")
    near = next(parent for parent in (run, *run.absolute().parents) if parent.exists())
    if not near.is_dir() or not os.access(near, os.W_OK | os.X_OK):
        raise PreflightError(
            f"cannot write to {near}; choose another --out or change its permissions"
        )


def make_folder(run: Path) -> None:
    """Make a run folder and its parents."""
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PreflightError(
            f"cannot make {run}: {error.strerror}; choose another --out"
        ) from error


def write_study(run: Path, config: StudyConfig, models: Sequence[StudyModel]) -> None:
    """Write RUN/automerge.yaml: the study as it is run, for resuming it and for others."""
    for name, text in written(config, run, {model.name: model.digest for model in models}).items():
        (run / name).parent.mkdir(exist_ok=True)
        write_atomically(run / name, text)


def discard(run: Path) -> None:
    """Remove what a refused search wrote into a folder that was empty or did not exist."""
    for name in (*COPIES, RECIPES):
        shutil.rmtree(run / name, ignore_errors=True)
    ours = [run / name for name in (SAMPLES, STUDY, LOCK, OWNER, LOG)]
    for path in (*ours, *run.glob(f"{FILE}*")):
        path.unlink(missing_ok=True)
    with suppress(OSError):  # somebody put something else there
        run.rmdir()
