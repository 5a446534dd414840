"""Copy a study's task files, and what they name, into its run folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from automerge.errors import PreflightError
from automerge.evaluation.lm_eval.task_data import files_of, is_remote, matching, packaged
from automerge.evaluation.lm_eval.task_index import own_files, own_index, task_manager
from automerge.evaluation.lm_eval.task_python import code_files
from automerge.evaluation.lm_eval.task_yaml import (
    FAILURES,
    child,
    read_text,
    scalar_nodes,
    with_includes,
)

OUTSIDE = "_outside"
"""Folder for copies of what is outside the folder of tasks."""
SPARE = 0.9
"""The share of a disk's free space that copies may use."""


def copy_tasks(source: Path, target: Path, names: Sequence[str] | None = None) -> Path:
    """Copy the files that tasks lead to, so that the folder that holds the copies can be moved.

    This copies the task files of `names` (None: of all tasks), what they include, Python files that
    they name together with the files next to them that those name, and data within `source`. Copies
    name data relative to the folder that holds `target`: `lm_eval` finds them when it is started
    there. Data elsewhere stay where they are, under absolute names.

    Raises:
        FileExistsError: the target exists.
        PreflightError: a file cannot be copied; says which.
    """
    source = source.resolve()
    if names is None:
        files = [Path(e.yaml_path) for e in own_index(source)[0].values() if e.yaml_path]
    else:
        manager = task_manager(names, source)
        files = [path for name in names for path in own_files(manager, name)]
    target.mkdir(parents=True)
    copying = _Copying(source, target.resolve())
    for path in dict.fromkeys(files):
        copying.task(path)
    return target.resolve()


@dataclass
class _Copying:
    source: Path
    target: Path
    _taken: dict[Path, Path] = field(default_factory=dict)
    """What was copied, by the path of the copy."""
    _bytes: int = 0

    def task(self, path: Path) -> None:
        """Copy a task file and what it names; one that cannot be read is left out."""
        from lm_eval.tasks._yaml_loader import load_yaml

        try:
            roots = with_includes(path)
            dataset = load_yaml(path, resolve_func=False).get("dataset_path")
        except FAILURES:
            return
        own = path.resolve()
        copies = {file: self._place(file, included=file != own) for file in roots}
        copies[own] = self.target / path.relative_to(self.source)
        for file, root in roots.items():
            self._text(file, root, copies, dataset)

    def _place(self, path: Path, included: bool = False) -> Path:
        if path.is_relative_to(self.source):
            return self.target / path.relative_to(self.source)
        # lm-eval would take a name that ends in .yaml for a task of the folder.
        return self.target / OUTSIDE / (f"{path.name}.included" if included else path.name)

    def _text(
        self, path: Path, root: yaml.Node | None, copies: dict[Path, Path], dataset: object
    ) -> None:
        text, copied = read_text(path), copies[path]
        edits = [
            (node.start_mark.index, node.end_mark.index, json.dumps(value))
            for node, value in self._changes(path, root, copies, dataset)
        ]
        for start, end, value in sorted(edits, reverse=True):
            text = text[:start] + value + text[end:]
        before = copied.read_text(encoding="utf-8") if copied.exists() else text
        if before != text:
            raise PreflightError(
                f"{path} and {self._taken.get(copied)} would both be copied to {copied.name}; "
                "rename one of them"
            )
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_text(text, encoding="utf-8")
        self._taken[copied] = path
        for file, data in code_files(path, root).items():
            place = copied.parent / os.path.relpath(file, path.parent)
            if place not in self._taken:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)
                self._taken[place] = file

    def _changes(
        self, path: Path, root: yaml.Node | None, copies: dict[Path, Path], dataset: object
    ) -> Iterator[tuple[yaml.ScalarNode, str]]:
        """Yield scalars of a task file that are written differently in the copy."""
        for node in scalar_nodes(child(root, "include")):
            copy = copies[(path.parent / node.value).resolve()]
            name = os.path.relpath(copy, copies[path].parent)
            if name != os.path.normpath(node.value):
                yield node, name
        named = child(root, "dataset_path")
        base = self._folder(path, dataset) if isinstance(dataset, str) else None
        if isinstance(named, yaml.ScalarNode) and base is not None:
            yield named, self._data(base)
        options = child(root, "dataset_kwargs")
        folder = child(options, "data_dir")
        if base is None and isinstance(folder, yaml.ScalarNode):
            base = self._anchored(path, folder.value)
            if base is not None:
                whole = child(options, "data_files") is None
                yield folder, self._data(base) if whole else self._name(base)
        for node in scalar_nodes(child(options, "data_files")):
            if base is not None:
                for found in matching(base, node.value):
                    self._data(found)
                continue
            anchor = self._anchor(path, node.value)
            if anchor is not None:
                for found in matching(anchor, node.value):
                    self._data(found)
                yield node, self._name(anchor / node.value)

    def _folder(self, path: Path, name: str) -> Path | None:
        """Return the local path that `dataset_path` names; None for builders and the hub."""
        if name in packaged():
            return None
        # A plain name is one of the hub's, unless datasets itself would find a folder of it.
        if "/" not in name and name not in (".", ".."):
            return Path.cwd() / name if Path(name).is_dir() else None
        return self._anchored(path, name)

    def _anchored(self, path: Path, name: str) -> Path | None:
        anchor = self._anchor(path, name)
        return None if anchor is None else anchor / name

    def _anchor(self, path: Path, pattern: str) -> Path | None:
        """Return the folder that a relative pattern starts from: the task file's, else this one.

        In our copies it is the folder that holds the copy.
        """
        if is_remote(pattern) or Path(pattern).is_absolute():
            return None
        copy = Path(pattern).parts[:1] == (self.source.name,)
        anchors = (path.parent, Path.cwd(), *([self.source.parent] if copy else ()))
        return next((anchor for anchor in anchors if matching(anchor, pattern)), None)

    def _data(self, path: Path) -> str:
        """Copy a data file or folder if it is among the tasks; return its name in the copy."""
        for file in files_of(path) if self._inside(path) else ():
            self._file(file)
        return self._name(path)

    def _inside(self, path: Path) -> bool:
        return Path(os.path.normpath(path)).is_relative_to(self.source)

    def _name(self, path: Path) -> str:
        path = Path(os.path.normpath(path))
        if not self._inside(path):
            return str(path)
        return str(Path(self.target.name, path.relative_to(self.source)))

    def _file(self, path: Path) -> None:
        copied = self._place(Path(os.path.normpath(path)))
        if copied in self._taken:
            return
        self._bytes += path.stat().st_size
        if path.stat().st_size > SPARE * shutil.disk_usage(self.target).free:
            raise PreflightError(
                f"data file {path} does not fit into {self.target.parent} ({self._bytes} bytes of "
                "the tasks' data in total); choose another --out, or name it by its absolute path"
            )
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copied)
        self._taken[copied] = path
