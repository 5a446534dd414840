"""One SQLite file per study: the only truth, written by the driver alone.

Every change is one transaction, written to disk before the call returns (`synchronous = EXTRA`).
`tests/store/test_store.py` kills writers, which proves that a transaction is whole or absent, and
that what was acknowledged had left the process, but not that the disk keeps what it was told to
flush. The file and its schema are in `automerge.store.file`, its checks in `automerge.store.check`.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from automerge.errors import StateError
from automerge.files.shared import without_places
from automerge.groups import best_sources, with_groups
from automerge.objective import ItemScores
from automerge.recipe import Recipe
from automerge.store.check import check_study
from automerge.store.file import (
    FILE,
    SCHEMA_VERSION,
    bounded,
    check_rows,
    check_schema,
    connect,
    create,
    insert,
    next_number,
    put,
    readable,
)
from automerge.store.items import (
    pack,
    pack_slope,
    pack_texts,
    unpack,
    unpack_slope,
    unpack_texts,
)
from automerge.store.record import KEYS, Current, Decided, StudyRecord
from automerge.store.run_folder import RunLock, check_own_files, journal_mode
from automerge.store.schema import META, misfit
from automerge.text.printable import inert
from automerge.text.redaction import redact, without_secrets
from automerge.trial import (
    Failed,
    Job,
    Measured,
    Outcome,
    Part,
    Slope,
    Timings,
    Trial,
    Weights,
    left_out,
    together,
)


@dataclass(frozen=True)
class Event:
    """One call that the sampler received."""

    kind: Literal["ask", "tell"]
    trial: int


class Store:
    """Reads and writes one study. Writers hold the folder's lock; readers do not need it.

    Raises:
        StateError: another process holds the lock, or the file is damaged, of another version, or
            cannot be opened.
    """

    def __init__(self, run: Path, *, write: bool) -> None:
        self.path = run / FILE
        self._copy: Path | None = None
        self._study: StudyRecord | None = None
        check_own_files(run)
        self._lock = RunLock(run) if write else None
        try:
            with readable(self.path):
                self._db, self._copy = connect(self.path, write=write)
                if write:
                    self._db.execute(f"PRAGMA journal_mode = {journal_mode(run)}")
                    # With a rollback journal, EXTRA also makes the journal's removal durable.
                    self._db.execute("PRAGMA synchronous = EXTRA")
                else:
                    self._db.execute("PRAGMA query_only = ON")
                self._open(write)
        except BaseException:
            self.close()
            raise

    def _open(self, write: bool) -> None:
        """Create the tables of a new study; check those of an existing one."""
        with bounded(self._db, self.path):
            # Readers stay in one transaction, so that what they read is what they checked.
            self._db.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if write and not tables:
                create(self._db)
                put(self._db, "schema_version", json.dumps(SCHEMA_VERSION))
            else:
                check_schema(self._db, self.path)
                check_rows(self._db, self.path)
                check_study(self._db, self.path)
            if write:
                self._db.execute("COMMIT")

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        if db := getattr(self, "_db", None):
            if self._lock is not None:
                # At rest, a study is a single file; while there are readers, the log stays.
                with suppress(sqlite3.Error):
                    db.execute("PRAGMA busy_timeout = 0")
                    db.execute("PRAGMA journal_mode = DELETE")
            db.close()
        if self._copy is not None:
            shutil.rmtree(self._copy, ignore_errors=True)
        if self._lock is not None:
            self._lock.release()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with readable(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _rows(self, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
        with readable(self.path):
            return self._db.execute(sql, arguments).fetchall()

    # What belongs to the study as a whole

    @property
    def begun(self) -> bool:
        """Whether the folder contains a study rather than an empty store."""
        return self._fact("begun") is not None

    @property
    def study(self) -> StudyRecord:
        """How the study began, its current state, and what it decided.

        Raises:
            StateError: it has not begun.
        """
        if self._study is None:
            facts = {key: self._fact(key) for key in KEYS}
            if None in facts.values():
                raise StateError(
                    f"{self.path}: the study was stopped before it began; run the same "
                    "`automerge search` again"
                )
            self._study = StudyRecord.from_plain(facts)
        return self._study

    def begin(self, record: StudyRecord) -> None:
        """Record what a study begins with."""
        if self.begun:
            raise ValueError("the study has already begun")
        self._put_facts(record.plain())

    def renew(self, current: Current) -> None:
        """Record what a run changes."""
        self._put_facts({"current": current.plain()})

    def decide(self, decided: Decided) -> None:
        """Record what selection decides."""
        self._put_facts({"decided": decided.plain()})

    def _fact(self, key: str) -> Any:
        """Return a JSON value of `meta`; None if there is none."""
        rows = self._rows("SELECT value FROM meta WHERE key = ?", key)
        return json.loads(rows[0][0]) if rows else None

    def _put_facts(self, facts: Mapping[str, Mapping[str, object]]) -> None:
        """Set parts of the record in one transaction, without secrets, checking their schema."""
        texts = {key: json.dumps(self._kept(fact)) for key, fact in facts.items()}
        for key, text in texts.items():
            if problem := misfit(META[key], text):
                raise ValueError(f"{key}: {problem}")
        with self._transaction() as db:
            for key, text in texts.items():
                put(db, key, text)
        self._study = None

    def _kept(self, fact: Mapping[str, object]) -> Mapping[str, object]:
        """Return a part of the record without secrets and without this machine's places.

        Where models are is kept as it is, since it is what finds them again; the configuration
        names places as `StudyConfig.shared` does, and is compared.
        """

        def kept(key: str, value: object) -> object:
            if key == "models":
                return value
            public = without_secrets(value)
            return public if key == "config" else self._shared(public)

        return {key: kept(key, value) for key, value in fact.items()}

    def _shared(self, value: Any) -> Any:
        """Return JSON values whose texts say nothing about where this machine keeps things."""
        if isinstance(value, str):
            return without_places(value, self.path.parent) if "/" in value else value
        if isinstance(value, Mapping):
            return {key: self._shared(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._shared(item) for item in value]
        return value

    def searched_s(self) -> float:
        """Return the seconds of search in all runs, each up to its last recorded measurement."""
        return float(self._fact("searched_s") or 0.0)

    def arithmetics(self) -> tuple[str, ...]:
        """Return the kinds of arithmetic of the machines that scores came from."""
        return tuple(self._fact("arithmetics") or ())

    # Writing

    def ask(self, trial: Trial, *, duplicate_of: int | None = None) -> None:
        """Record a trial, with an "ask" event, before anything is done with it."""
        params = None if trial.params is None else json.dumps(dict(trial.params))
        recipe = json.dumps(trial.recipe.plain())
        row = (trial.number, trial.origin, trial.name, trial.recipe.id, recipe, params)
        with self._transaction() as db:
            direction = json.dumps(trial.direction) if trial.direction else None
            insert(db, "trials", [(*row, duplicate_of, trial.slopes, direction)])
            _event(db, "ask", trial.number)

    def tell(self, number: int) -> None:
        """Record that the sampler is told about a trial: a duplicate, or one measured before."""
        with self._transaction() as db:
            _event(db, "tell", number)

    def scored_weights(self, number: int) -> tuple[Weights, str] | None:
        """Return the weights and arithmetic of a trial's test scores; None if unknown."""
        known = (self._fact("weights") or {}).get(str(number))
        return known and (Weights(known["digest"], tuple(known["without"])), known["arithmetic"])

    def _witness(self, db: sqlite3.Connection, number: int, outcome: Measured) -> None:
        """Record the kinds of arithmetic of all scores, and the weights of test scores."""
        facts: dict[str, Any] = {}
        kinds = self.arithmetics()
        if outcome.arithmetic and outcome.arithmetic not in kinds:
            facts["arithmetics"] = [*kinds, outcome.arithmetic]
        if outcome.weights is not None:
            witness = {**asdict(outcome.weights), "arithmetic": outcome.arithmetic}
            facts["weights"] = {**(self._fact("weights") or {}), str(number): witness}
        for key, value in facts.items():
            put(db, key, json.dumps(value))

    def record(
        self, job: Job, outcome: Outcome, *, tell: bool = False, searched_s: float | None = None
    ) -> None:
        """Record the outcome of a job.

        Args:
            job: the job.
            outcome: its outcome.
            tell: whether to record as well that the sampler is told about it.
            searched_s: the seconds of search until now, by a monotonic clock.
        """
        with self._transaction() as db:
            if searched_s is not None:
                put(db, "searched_s", json.dumps(searched_s))
            if isinstance(outcome, Measured):
                self._witness(db, job.trial, outcome)
                number = next_number(db, "measurements")
                timings = json.dumps(asdict(outcome.timings))
                notes = json.dumps(dict(outcome.notes))
                row = (number, *job.key, timings, outcome.tokens, notes, time.time())
                insert(db, "measurements", [row])
                insert(
                    db,
                    "scores",
                    [
                        (number, name, *packed)
                        for name, scores in outcome.scores.items()
                        for packed in pack(scores)
                    ],
                )
                insert(
                    db,
                    "margins",
                    [
                        (number, name, task, ids, values)
                        for name, margins in outcome.margins.items()
                        for task, ids, values, _ in pack(margins)
                    ],
                )
                insert(
                    db,
                    "answers",
                    [
                        (number, name, *packed)
                        for name, texts in outcome.answers.items()
                        for packed in pack_texts(texts)
                    ],
                )
                coordinates = job.recipe.coordinates
                insert(
                    db,
                    "slopes",
                    [
                        (number, name, slope.loss, *pack_slope(coordinates, slope.by))
                        for name, slope in outcome.slopes.items()
                    ],
                )
            else:
                found = (outcome.reason, outcome.traceback)
                texts = (inert(redact(without_places(text, self.path.parent))) for text in found)
                failure = (job.trial, job.part, outcome.kind, *texts, time.time())
                insert(db, "failures", [failure])
            if tell:
                _event(db, "tell", job.trial)

    # Reading

    def trials(self) -> list[Trial]:
        rows = self._rows(
            "SELECT number, recipe, origin, name, params, slopes, direction FROM trials "
            "ORDER BY number"
        )
        return [
            Trial(
                number,
                Recipe.from_plain(json.loads(recipe)),
                origin,
                name,
                None if params is None else json.loads(params),
                slopes,
                () if direction is None else tuple(json.loads(direction)),
            )
            for number, recipe, origin, name, params, slopes, direction in rows
        ]

    def duplicates(self) -> dict[int, int]:
        """Return trial → the earlier trial whose result it shares."""
        sql = "SELECT number, duplicate_of FROM trials WHERE duplicate_of IS NOT NULL"
        return dict(self._rows(sql))

    def events(self) -> list[Event]:
        return [Event(*row) for row in self._rows("SELECT kind, trial FROM events ORDER BY seq")]

    def times(self) -> dict[int, tuple[float, float | None]]:
        """Return when each trial was asked and told, in Unix seconds, which imply no order."""
        asked: dict[int, float] = {}
        told: dict[int, float] = {}
        for kind, trial, at in self._rows("SELECT kind, trial, at FROM events ORDER BY seq"):
            (asked if kind == "ask" else told)[trial] = at
        return {trial: (at, told.get(trial)) for trial, at in asked.items()}

    def outcomes(self, part: Part) -> dict[int, Outcome]:
        """Return the outcomes of one part by trial number, with all blocks combined."""
        return dict(self.each_outcome(part))

    def each_outcome(self, part: Part) -> Iterator[tuple[int, Outcome]]:
        """Yield the same one by one, with one trial's item scores in memory at a time.

        What is kept are the scores of tasks; those of groups follow from them.

        Measurements come first: for the search in the order in which the sampler was told about
        them, else in that of their first blocks. A trial with a failed block comes again, as a
        failure.
        """
        objectives = self.study.begun.inputs.objectives if self.begun else ()
        if not any(o.members for o in objectives):
            yield from self._each_kept(part)
            return
        experts = self._experts(part)
        for number, outcome in self._each_kept(part):
            if isinstance(outcome, Measured):
                scores = with_groups(objectives, outcome.scores, experts)
                outcome = replace(outcome, scores=scores)
            yield number, outcome

    def _experts(self, part: Part) -> dict[str, ItemScores]:
        """Return the scores of the source that is best at each member of a relative group.

        Which one that is is decided on select items, or on search items before there are any.
        """
        objectives = self.study.begun.inputs.objectives
        if not any(o.relative for o in objectives):
            return {}
        sources = {trial.number for trial in self.trials() if trial.origin == "source"}

        def scored(where: Part) -> list[Mapping[str, ItemScores]]:
            kept = dict(self._each_kept(where))
            found = (kept.get(number) for number in sorted(sources))
            return [o.scores if isinstance(o, Measured) else {} for o in found]

        own = scored(part)
        best = best_sources(objectives, own if part == "search" else scored("select"))
        return {name: own[at][name] for name, at in best.items() if name in own[at]}

    def _each_kept(self, part: Part) -> Iterator[tuple[int, Outcome]]:
        rows = self._rows(
            "SELECT id, trial, timings, tokens, notes FROM measurements LEFT JOIN "
            "(SELECT trial, seq FROM events WHERE kind = 'tell' AND ? = 'search') USING (trial) "
            "WHERE part = ? ORDER BY seq IS NULL, seq, id",
            part,
            part,
        )
        blocks: dict[int, list[tuple[Any, ...]]] = {}
        for measurement, trial, *rest in rows:
            blocks.setdefault(trial, []).append((measurement, *rest))
        for trial, measured in blocks.items():
            yield trial, together([self._measured(trial, *row) for row in measured])
        for trial, kind, reason, traceback in self._rows(
            "SELECT trial, kind, reason, traceback FROM failures WHERE part = ? ORDER BY rowid",
            part,
        ):
            yield trial, Failed(kind, reason, traceback)

    def _measured(
        self, trial: int, measurement: int, timings: str, tokens: int, notes: str
    ) -> Measured:
        scores = self._packed("scores", "ids, item_values, weights", measurement)
        margins = self._packed("margins", "ids, item_margins, NULL", measurement)
        noted: dict[str, float] = json.loads(notes)
        return Measured(
            {**scores, **{name: ItemScores((), ()) for name in left_out(noted)}},
            Timings(**json.loads(timings)),
            tokens,
            noted,
            margins=margins,
            slopes=self._slopes(trial, measurement),
            answers=self._answers(measurement),
        )

    def _slopes(self, trial: int, measurement: int) -> dict[str, Slope]:
        """Return a measurement's slopes by objective."""
        rows = self._rows(
            "SELECT objective, loss, numbers, derivatives FROM slopes WHERE measurement = ? "
            "ORDER BY objective",
            measurement,
        )
        if not rows:
            return {}
        [(recipe,)] = self._rows("SELECT recipe FROM trials WHERE number = ?", trial)
        coordinates = Recipe.from_plain(json.loads(recipe)).coordinates
        return {
            name: Slope(loss, unpack_slope(coordinates, numbers, derivatives))
            for name, loss, numbers, derivatives in rows
        }

    def _answers(self, measurement: int) -> dict[str, dict[tuple[str, int], str]]:
        """Return a measurement's right answers by objective."""
        packed: dict[str, list[tuple[str, bytes, str]]] = {}
        for objective, *row in self._rows(
            "SELECT objective, task, ids, texts FROM answers WHERE measurement = ? "
            "ORDER BY objective, task",
            measurement,
        ):
            packed.setdefault(objective, []).append((row[0], row[1], row[2]))
        return {name: unpack_texts(rows) for name, rows in packed.items()}

    def explained(self) -> dict[int, tuple[Measured, ...]]:
        """Return the measurements that explain a model, by trial, each on its own."""
        rows = self._rows(
            "SELECT trial, id, timings, tokens, notes FROM measurements "
            "WHERE part = 'explain' ORDER BY trial, block"
        )
        found: dict[int, tuple[Measured, ...]] = {}
        for trial, *row in rows:
            found[trial] = (*found.get(trial, ()), self._measured(trial, *row))
        return found

    def _packed(self, table: str, columns: str, measurement: int) -> dict[str, ItemScores]:
        """Return numbers per item by objective, from a table with these columns."""
        packed: dict[str, list[tuple[Any, ...]]] = {}
        for objective, *row in self._rows(
            f"SELECT objective, task, {columns} FROM {table} "
            "WHERE measurement = ? ORDER BY objective, task",
            measurement,
        ):
            packed.setdefault(objective, []).append(tuple(row))
        return {name: unpack(rows) for name, rows in packed.items()}

    def measurements(self) -> list[tuple[int, int, Part]]:
        """Number, trial and part of every measurement, in the order of recording."""
        return [
            (n, t, p)
            for n, t, p in self._rows("SELECT id, trial, part FROM measurements ORDER BY id")
        ]

    def blocks(self, part: Part) -> dict[int, int]:
        """Return the number of blocks of a part that each trial was measured on."""
        sql = "SELECT trial, count(*) FROM measurements WHERE part = ? GROUP BY trial"
        return {int(trial): int(n) for trial, n in self._rows(sql, part)}

    def failed(self, part: Part) -> set[int]:
        """Return the trials that failed on a part."""
        sql = "SELECT trial FROM failures WHERE part = ?"
        return {int(trial) for (trial,) in self._rows(sql, part)}

    def counts(self) -> dict[str, int]:
        """Count the trials asked, measured and failed in the search, and duplicates separately."""
        asked, duplicates = self._rows("SELECT count(*), count(duplicate_of) FROM trials")[0]
        measured = self._rows("SELECT count(*) FROM measurements WHERE part = 'search'")[0][0]
        failed = self._rows("SELECT count(*) FROM failures WHERE part = 'search'")[0][0]
        return {
            "asked": asked - duplicates,
            "measured": measured,
            "failed": failed,
            "duplicates": duplicates,
        }


def exists(run: Path) -> bool:
    """Return whether a folder contains a study."""
    return (run / FILE).is_file()


def _event(db: sqlite3.Connection, kind: str, trial: int) -> None:
    insert(db, "events", [(next_number(db, "events"), kind, trial, time.time())])
