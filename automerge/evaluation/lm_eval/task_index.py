"""lm-eval's index of task names, as small as the study allows, and the files behind a name."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automerge.errors import PreflightError
from automerge.evaluation.lm_eval.stock_names import mentioned
from automerge.evaluation.lm_eval.task_yaml import FAILURES, Unreadable, files_in, with_includes

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

STUDY = "study.sqlite"
"""Marks a run folder, whose copies of tasks are not the user's own."""


def task_manager(names: Sequence[str], include_path: Path | None) -> TaskManager:
    """Index the study's own folder, and lm-eval's 14,000 names only when one of them may be needed.

    A name that is neither in the folder nor anywhere in lm-eval's files is in no index.

    Files that are not task files or cannot be read are skipped, as lm-eval skips them.

    Raises:
        PreflightError: the folder holds too many files to be a folder of task files.
    """
    from lm_eval.tasks import TaskManager

    own = {} if include_path is None else own_index(include_path)[0]
    manager = _with(TaskManager(include_defaults=False), own)
    lacking = [name for name in names if not _complete(manager, name)]
    if any(name in own or mentioned(name) for name in lacking):
        return _with(_stock(), own)
    return manager


@functools.cache
def _stock() -> TaskManager:
    """Return lm-eval's index of its own tasks, which takes it ten seconds or more to make."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def own_index(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Return lm-eval's entries of a folder by name, and why files in it are skipped."""
    from lm_eval.tasks._index import TaskIndex
    from lm_eval.tasks._yaml_loader import load_yaml

    entries: dict[str, Any] = {}
    problems: list[str] = []
    try:
        found = [p for p in files_in(folder, frozenset({STUDY})) if p.suffix == ".yaml"]
    except Unreadable as error:
        raise PreflightError(str(error)) from None
    for path in sorted(found, key=Path.as_posix):
        try:
            with_includes(path)
            TaskIndex.process_cfg(load_yaml(path, resolve_func=False), path, entries)
        except FAILURES as error:
            text = str(error).splitlines() or [type(error).__name__]
            problems.append(f"{path} cannot be read: {text[0]}")
    return entries, problems


def _with(manager: TaskManager, own: Mapping[str, Any]) -> TaskManager:
    """Return the manager with more entries; those it has are left as they are."""
    more = copy.copy(manager)
    more._index = {**manager._index, **own}
    more._all_tasks = sorted(more._index)
    return more


def _complete(manager: TaskManager, name: str) -> bool:
    entry = manager.task_index.get(name)
    if entry is None:
        return False
    children = (entry.cfg or {}).get("task")
    if not isinstance(children, list):
        return True
    return all(_complete(manager, item) for item in children if isinstance(item, str))


def own_files(manager: TaskManager, name: str) -> list[Path]:
    """Return the task files that a name leads to, outside lm-eval's own package."""
    files: dict[Path, None] = {}
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        name = waiting.pop()
        entry = manager.task_index.get(name)
        if entry is None or name in seen:
            continue
        seen.add(name)
        if entry.yaml_path is None:
            waiting += sorted(entry.tags)
        elif not is_stock(Path(entry.yaml_path)):
            files[Path(entry.yaml_path)] = None
        waiting += _named_in((entry.cfg or {}).get("task"))
    return list(files)


def is_stock(path: Path) -> bool:
    """Return whether a file is in lm-eval's own package of tasks."""
    import lm_eval.tasks

    return path.resolve().is_relative_to(Path(lm_eval.tasks.__file__).resolve().parent)


def _named_in(children: object) -> list[str]:
    """Return the names of tasks and groups in a group's `task:` list, however nested."""
    if isinstance(children, str):
        return [children]
    if isinstance(children, Mapping):
        return _named_in(children.get("task")) + _named_in(children.get("group"))
    if isinstance(children, list):
        return [name for item in children for name in _named_in(item)]
    return []
