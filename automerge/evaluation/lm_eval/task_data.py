"""Find the data files that a task names, as Hugging Face `datasets` finds them."""

from __future__ import annotations

import copy
import glob
import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from automerge.errors import PreflightError
from automerge.evaluation.lm_eval.task_yaml import Unreadable, files_in
from automerge.files.regular import Unfit, regular_size

BUILDERS = frozenset({"arrow", "conll", "csv", "json", "parquet", "text", "xml"})
"""Builders of `datasets` that read plain data. `pandas` unpickles, which runs code."""
OPTIONS = frozenset(
    {
        "cache_dir", "download_config", "download_mode", "keep_in_memory", "num_proc", "save_infos",
        "storage_options", "streaming", "token", "verification_mode",
    }
)  # fmt: skip
"""Options of `load_dataset` that only the user may set, not a task."""
MAX_BYTES = 64 * 2**30
"""Most bytes of a task's data."""
MAX_FILES = 100_000


def packaged() -> frozenset[str]:
    """Return names that `datasets` takes for a kind of file rather than a data set."""
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    return frozenset(_PACKAGED_DATASETS_MODULES)


def patterns(value: Any) -> Iterator[str]:
    """Return the patterns in `data_files`: one, a list, or those of each split."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from patterns(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from patterns(item)


def is_remote(pattern: str) -> bool:
    """Return whether a pattern names something that is not on this machine."""
    return "://" in pattern


def matching(base: Path, pattern: str) -> list[Path]:
    """Return files and folders that a pattern names from a folder; none if it cannot name any."""
    if is_remote(pattern) or "\0" in pattern:
        return []
    path = base / pattern
    if not glob.has_magic(pattern):
        return [path] if os.path.lexists(path) else []
    found = glob.iglob(pattern, root_dir=base, recursive=True)  # noqa: PTH207 takes any pattern
    return [base / name for name in sorted(itertools.islice(found, MAX_FILES))]


def files_of(path: Path) -> list[Path]:
    """Return a file, or the files in a folder.

    Raises:
        PreflightError: it is not a regular file, is a circle of links, or is too large.
    """
    if path.is_dir():
        try:
            return [file for found in files_in(path) for file in files_of(found)]
        except Unreadable as error:
            raise PreflightError(str(error)) from None
    try:
        regular_size(path, MAX_BYTES)
    except Unfit as error:
        raise PreflightError(f"data file {error}") from None
    except OSError as error:
        raise PreflightError(f"data file {path}: cannot be read: {error.strerror}") from None
    return [path]


@dataclass(frozen=True)
class Opener:
    """Decides what `load_dataset` opens for a task, or refuses it.

    `folder` is the study's copy of the task files. What they name relative to the folder that holds
    it (see `task_copy.copy_tasks`) is found there, from any working directory.
    """

    folder: Path | None
    allowed: bool

    def resolve(
        self, path: Any, options: Mapping[str, Any] | None
    ) -> tuple[Any, dict[str, Any] | None]:
        """Return the data set's path and the options to open it with.

        Raises:
            PreflightError: a task may not set an option, or a file cannot be read.
        """
        wanted = None if options is None else copy.deepcopy(dict(options))
        self._check(path, wanted or {})
        if self.folder is None or not isinstance(path, str):
            return path, wanted
        local = path if path in packaged() else self._own(path)
        if wanted is not None:
            if local in packaged():
                if isinstance(wanted.get("data_dir"), str):
                    wanted["data_dir"] = self._own(wanted["data_dir"])
                elif "data_files" in wanted:
                    wanted["data_files"] = self._all_own(wanted["data_files"])
            base = Path(wanted.get("data_dir") or ".") if local in packaged() else Path(local)
            for pattern in patterns(wanted.get("data_files")):
                for found in matching(base, pattern):
                    files_of(found)
        return local, wanted

    def _check(self, path: Any, options: Mapping[str, Any]) -> None:
        if self.allowed:
            return
        if path in packaged() and path not in BUILDERS:
            raise PreflightError(
                f"dataset_path {path!r} can run code, or opens data other than text; use one of "
                f"{', '.join(sorted(BUILDERS))}, or allow task code if you trust the task"
            )
        for name in OPTIONS.intersection(options):
            raise PreflightError(
                f"dataset_kwargs {name} must not be set by a task; remove it, or allow task code "
                "if you trust the task"
            )

    def _own(self, name: str) -> str:
        assert self.folder is not None
        first = Path(name).parts[:1]
        return str(self.folder.parent / name) if first == (self.folder.name,) else name

    def _all_own(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._own(value)
        if isinstance(value, Mapping):
            return {key: self._all_own(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._all_own(item) for item in value]
        return value
