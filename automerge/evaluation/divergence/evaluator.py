"""The divergence from the base as an evaluator: on a text's passages, or on tasks' prompts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from automerge.checkpoints.kinds import ModelKind, no_decoder
from automerge.errors import PreflightError
from automerge.evaluation.base import (
    ITEMS_FOLDER,
    Entry,
    Live,
    Settings,
    TaskFault,
    TasksRefused,
)
from automerge.evaluation.copies import write_copy
from automerge.evaluation.divergence.passages import passages
from automerge.evaluation.divergence.scorer import DivergenceScorer, Tokens, longest_sequence
from automerge.evaluation.lm_eval.evaluator import LmEval, LmEvalTasks
from automerge.evaluation.lm_eval.prompts import prompt_tokens
from automerge.evaluation.split import Split, document_hash
from automerge.evidence.gather import read_text
from automerge.objective import KL_TO_BASE, Objective
from automerge.trial import Part

TEXT, TASKS = "text", "tasks"
"""The options of an entry: a file or folder of text, or entries for lm-eval; one of the two."""


class Divergence:
    """Opens what the predictions of merged models and of their base are compared on."""

    def __init__(self, entries: Sequence[Entry], settings: Settings) -> None:
        self._entries, self._settings = tuple(entries), settings

    def keep(self, run: Path) -> None:
        """Copy the passages of texts, or the files of tasks."""
        for i, entry in enumerate(self._entries):
            if TASKS in entry.options:
                with _named(i):
                    self._lm_eval(entry).keep(run)
            elif not (copied := _copy(run, entry)).is_file():
                cut = passages(read_text(Path(entry.options[TEXT])).documents)
                write_copy(copied, f"{json.dumps(cut, indent=0)}\n".encode("ascii"))

    def open(self, run: Path) -> DivergenceTasks:
        """Open the copies."""
        sources: dict[str, _Source] = {}
        for i, entry in enumerate(self._entries):
            if TASKS in entry.options:
                with _named(i):
                    sources[entry.name] = _Prompts(entry.name, self._lm_eval(entry).open(run))
            else:
                sources[entry.name] = _Passages(entry.name, _read(_copy(run, entry)))
        return DivergenceTasks(self._entries, sources, self._settings)

    def _lm_eval(self, entry: Entry) -> LmEval:
        return LmEval(entry.options[TASKS], self._settings)


def _copy(run: Path, entry: Entry) -> Path:
    return run / ITEMS_FOLDER / f"{entry.name}.json"


def _read(path: Path) -> tuple[str, ...]:
    try:
        return tuple(map(str, json.loads(path.read_text(encoding="ascii"))))
    except (OSError, ValueError, TypeError) as error:
        raise PreflightError(f"{path}: cannot be read as a list of passages: {error}") from error


@contextmanager
def _named(i: int) -> Iterator[None]:
    """Report faults of tasks whose prompts are read as faults of the entry that reads them."""
    try:
        yield
    except TasksRefused as error:
        raise TasksRefused(
            [TaskFault(i, "", fault.message) for fault in error.task_faults]
        ) from None


class _Source(Protocol):
    """Documents by leaf task, and their tokens."""

    @property
    def parts(self) -> Mapping[str, tuple[Part, ...]]: ...

    def documents(self) -> Mapping[str, Sequence[object]]: ...

    def digests(self) -> Mapping[str, str]: ...

    def tokens(self, live: Live, length: int) -> Tokens:
        """Return a function of leaf task and doc id to at most `length` token ids."""
        ...


@dataclass(frozen=True)
class _Passages:
    """The passages of a text, as one leaf task."""

    leaf: str
    texts: tuple[str, ...]

    @property
    def parts(self) -> dict[str, tuple[Part, ...]]:
        return {}

    def documents(self) -> dict[str, Sequence[str]]:
        return {self.leaf: self.texts}

    def digests(self) -> dict[str, str]:
        return {self.leaf: _digest(map(document_hash, self.texts))}

    def tokens(self, live: Live, length: int) -> Tokens:
        def of(_: str, number: int) -> tuple[int, ...]:
            assert live.tokenizer is not None  # every decoder of a study has one
            found: list[int] = live.tokenizer(self.texts[number])["input_ids"]
            return tuple(found[:length])

        return of


class _Prompts:
    """The prompts of lm-eval's tasks, as leaf tasks of their own with the same documents, which are
    therefore in the same parts."""

    def __init__(self, name: str, tasks: LmEvalTasks) -> None:
        self._name, self._tasks = name, tasks

    @property
    def parts(self) -> dict[str, tuple[Part, ...]]:
        return {self._own(leaf): parts for leaf, parts in self._tasks.parts.items()}

    def _own(self, leaf: str) -> str:
        return f"{self._name}:{leaf}"

    def documents(self) -> dict[str, Sequence[object]]:
        return {self._own(leaf): docs for leaf, docs in self._tasks.documents().items()}

    def digests(self) -> dict[str, str]:
        return {self._own(leaf): _digest([own]) for leaf, own in self._tasks.digests().items()}

    def tokens(self, live: Live, length: int) -> Tokens:
        known = prompt_tokens(self._tasks.task_set, live.model, live.tokenizer, length)
        return lambda leaf, number: known(leaf.removeprefix(self._own("")), number)


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256(json.dumps(["divergence", *parts]).encode()).hexdigest()


class DivergenceTasks:
    """One objective per entry, to be minimised: nats per token, Σ KL / Σ tokens over its items."""

    def __init__(
        self, entries: Sequence[Entry], sources: Mapping[str, _Source], settings: Settings
    ) -> None:
        self._sources, self._settings = sources, settings
        self.objectives = tuple(
            Objective(e.name, e.name, "kl", "none", e.direction or "minimize", "ratio", e.goal)
            for e in entries
        )
        self.smooth = tuple(entry.name for entry in entries)

    def on(self, model: str, kind: ModelKind) -> DivergenceTasks:
        """Return the same; raises TasksRefused for models that do not predict each next token."""
        if kind is not ModelKind.DECODER:
            problem = no_decoder(model, kind, KL_TO_BASE)
            problem += ": use distance_to_base, or a function of yours (`python:`)"
            raise TasksRefused([TaskFault(i, "task", problem) for i in range(len(self._sources))])
        return self

    @property
    def members(self) -> dict[str, tuple[str, ...]]:
        """The text's only leaf task, or one per task whose prompts are read."""
        return {name: tuple(source.documents()) for name, source in self._sources.items()}

    @property
    def parts(self) -> dict[str, tuple[Part, ...]]:
        """The parts of tasks that have their own dataset splits."""
        return {
            leaf: own for source in self._sources.values() for leaf, own in source.parts.items()
        }

    def documents(self) -> dict[str, Sequence[object]]:
        """Return passages, or the documents that prompts are made from."""
        return {
            k: docs for source in self._sources.values() for k, docs in source.documents().items()
        }

    def digests(self) -> dict[str, str]:
        """Return digests of them."""
        return {k: own for source in self._sources.values() for k, own in source.digests().items()}

    def warnings(self, split: Split) -> list[str]:
        """Return nothing."""
        del split
        return []

    def commands(self, model: Path, samples: Path, dtype: str) -> list[list[str]]:
        """Return nothing: a model's folder alone has no base to compare it with."""
        del model, samples, dtype
        return []

    def attach(self, live: Live) -> DivergenceScorer:
        """Return a scorer.

        Raises:
            PreflightError: the model's output head cannot be run by itself.
        """
        length = longest_sequence(live.model, self._settings.max_length)
        tokens = {name: source.tokens(live, length) for name, source in self._sources.items()}
        return DivergenceScorer(live, self.members, tokens, self._settings.batch_size)
