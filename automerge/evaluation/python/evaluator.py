"""Functions of a user's module as an evaluator: `python: MODULE:FUNCTION` with a file of items."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from automerge.evaluation.base import (
    ITEMS_FOLDER,
    Entry,
    Live,
    Settings,
    TaskFault,
    TasksRefused,
)
from automerge.evaluation.copies import write_copy
from automerge.evaluation.python.items import BrokenItems, read_items
from automerge.evaluation.split import Split, document_hash
from automerge.extensions import attribute, installed, missing
from automerge.objective import Objective
from automerge.trial import Part

if TYPE_CHECKING:
    from automerge.evaluation.python.scorer import PythonScorer

Function: TypeAlias = Callable[..., Any]
"""`(model, tokenizer, items: list[dict]) -> list[float]`"""


class PythonFunctions:
    """Opens tasks that the user's functions score; only modules listed as extensions are used."""

    def __init__(self, entries: Sequence[Entry], settings: Settings) -> None:
        del settings
        self._entries = tuple(entries)

    def keep(self, run: Path) -> None:
        """Copy the items and the source of the functions' modules, so that scores can be
        reproduced from the run folder alone."""
        faults: list[TaskFault] = []
        for i, entry in enumerate(self._entries):
            faults += _function_faults(i, entry)
            copied = items_file(run, entry.name)
            if copied.is_file():
                continue
            source = Path(entry.options.get("items", ""))
            try:
                read_items(source)
            except BrokenItems as error:
                faults.append(TaskFault(i, "items", f"task {entry.name!r}: {error}"))
            else:
                write_copy(copied, source.read_bytes())
        if faults:
            raise TasksRefused(faults)
        for extension in installed({_module(entry) for entry in self._entries}):
            for path, text in extension.files.items():
                write_copy(run / ITEMS_FOLDER / path, text.encode())

    def open(self, run: Path) -> PythonTasks:
        """Read the copies of the items, and look the functions up."""
        faults: list[TaskFault] = []
        documents: dict[str, list[dict[str, Any]]] = {}
        for i, entry in enumerate(self._entries):
            faults += _function_faults(i, entry)
            try:
                documents[entry.name] = read_items(items_file(run, entry.name))
            except BrokenItems as error:
                faults.append(TaskFault(i, "items", f"task {entry.name!r}: {error}"))
        if faults:
            raise TasksRefused(faults)
        return PythonTasks(self._entries, documents)


def items_file(run: Path, name: str) -> Path:
    """Return the path of a task's items in a run folder; different names have different files."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:80]
    if plain != name:
        plain += f"-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return run / ITEMS_FOLDER / f"{plain}.jsonl"


def _module(entry: Entry) -> str:
    return entry.task.partition(":")[0].partition(".")[0]


def _function_faults(i: int, entry: Entry) -> list[TaskFault]:
    """List what keeps a task's function from being called."""
    try:
        found = attribute(entry.task)
    except KeyError:
        if entry.task.count(":") != 1:
            message = f"expected MODULE:FUNCTION, got {entry.task!r}"
        else:
            message = f"function {entry.task!r}: {missing(entry.task)}"
        return [TaskFault(i, "task", message)]
    if callable(found):
        return []
    kind = type(found).__name__
    message = f"{entry.task} is not a function of (model, tokenizer, items) but {kind}"
    return [TaskFault(i, "task", message)]


class PythonTasks:
    """Items and the functions that score them; each task is a leaf task of the objective's name."""

    parts: Mapping[str, tuple[Part, ...]] = MappingProxyType({})

    def __init__(
        self, entries: Sequence[Entry], documents: Mapping[str, list[dict[str, Any]]]
    ) -> None:
        self._entries = tuple(entries)
        self._documents = documents
        self.objectives = tuple(
            Objective(e.name, e.name, e.task, "none", e.direction or "maximize", goal=e.goal)
            for e in entries
        )

    @property
    def members(self) -> Mapping[str, tuple[str, ...]]:
        """Each objective's only leaf task, which has the same name."""
        return {entry.name: (entry.name,) for entry in self._entries}

    def documents(self) -> dict[str, list[dict[str, Any]]]:
        """Return the items, in the order of their lines."""
        return dict(self._documents)

    def digests(self) -> dict[str, str]:
        """Return digests of items and source."""
        return {
            entry.name: hashlib.sha256(
                json.dumps(
                    [
                        entry.task,
                        *(extension.digest for extension in installed([_module(entry)])),
                        *map(document_hash, self._documents[entry.name]),
                    ]
                ).encode()
            ).hexdigest()
            for entry in self._entries
        }

    def warnings(self, split: Split) -> list[str]:
        """Return nothing."""
        del split
        return []

    def commands(self, model: Path, samples: Path, dtype: str) -> list[list[str]]:
        """Return `automerge score` per task, with the copy of its module."""
        del samples, dtype
        return [
            [
                *("automerge", "score", str(model), "--run", ".", "--task", entry.name),
                *("--extension", f"./{ITEMS_FOLDER}/{_extension_path(entry)}"),
            ]
            for entry in self._entries
        ]

    def attach(self, live: Live) -> PythonScorer:
        """Return a scorer that calls the functions."""
        from automerge.evaluation.python.scorer import PythonScorer, Scoring

        return PythonScorer(
            live,
            [
                Scoring(
                    entry.name,
                    entry.task,
                    cast(Function, attribute(entry.task)),
                    tuple(self._documents[entry.name]),
                )
                for entry in self._entries
            ],
        )


def _extension_path(entry: Entry) -> str:
    (extension,) = installed([_module(entry)])
    single = f"{extension.name}.py"
    return single if single in extension.files else extension.name
