"""One SQLite file a study: the only truth, written by the driver alone.

Every change is one transaction, on disk before the call returns; `tests/test_store.py` kills
writers to prove it. The schema is documented in docs/store.md.
"""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from automerge.errors import StateError
from automerge.objective import ItemScores
from automerge.recipe import Recipe
from automerge.redaction import redact
from automerge.run_folder import RunLock, journal_mode
from automerge.trial import Failed, Job, Measured, Outcome, Part, Timings, Trial, together

SCHEMA_VERSION = 2
FILE = "study.sqlite"

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE trials (
    number INTEGER PRIMARY KEY, origin TEXT NOT NULL, name TEXT NOT NULL,
    recipe_id TEXT NOT NULL, recipe TEXT NOT NULL, params TEXT, duplicate_of INTEGER);
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, trial INTEGER NOT NULL,
    at REAL NOT NULL);
CREATE TABLE measurements (
    id INTEGER PRIMARY KEY, trial INTEGER NOT NULL, part TEXT NOT NULL, block INTEGER NOT NULL,
    timings TEXT NOT NULL, tokens INTEGER NOT NULL, notes TEXT NOT NULL, at REAL NOT NULL,
    UNIQUE (trial, part, block));
CREATE TABLE scores (
    measurement INTEGER NOT NULL, objective TEXT NOT NULL, task TEXT NOT NULL,
    ids BLOB NOT NULL, item_values BLOB NOT NULL, weights BLOB,
    PRIMARY KEY (measurement, objective, task)) WITHOUT ROWID;
CREATE TABLE failures (
    trial INTEGER NOT NULL, part TEXT NOT NULL, kind TEXT NOT NULL, reason TEXT NOT NULL,
    traceback TEXT NOT NULL, at REAL NOT NULL, PRIMARY KEY (trial, part));
"""


@dataclass(frozen=True)
class Event:
    """One call the sampler received, in the order of the calls."""

    kind: Literal["ask", "tell"]
    trial: int


class Store:
    """Reads and writes one study. Writers hold the folder's lock; readers need none."""

    def __init__(self, run: Path, *, write: bool) -> None:
        self.path = run / FILE
        self._lock = RunLock(run) if write else None
        try:
            with _readable(self.path):
                # Readers open for writing too: only so can SQLite roll back what a killed writer
                # left half done.
                uri = f"{self.path.resolve().as_uri()}?mode={'rwc' if write else 'rw'}"
                self._db = sqlite3.connect(uri, timeout=60, uri=True, isolation_level=None)
                if write:
                    self._db.execute(f"PRAGMA journal_mode = {journal_mode(run)}")
                    # With a rollback journal, EXTRA also makes the journal's removal durable.
                    self._db.execute("PRAGMA synchronous = EXTRA")
                else:
                    self._db.execute("PRAGMA query_only = ON")
                tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if write and not tables:
                self._create()
            elif self.meta("schema_version") != SCHEMA_VERSION:
                raise StateError(
                    f"{self.path} has schema version {self.meta('schema_version')}, this "
                    f"automerge reads version {SCHEMA_VERSION}; use the automerge that wrote it"
                )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        if db := getattr(self, "_db", None):
            if self._lock is not None:
                # At rest a study is one file; readers at work keep the log, and lose nothing by it.
                with suppress(sqlite3.Error):
                    db.execute("PRAGMA busy_timeout = 0")
                    db.execute("PRAGMA journal_mode = DELETE")
            db.close()
        if self._lock is not None:
            self._lock.release()

    def _create(self) -> None:
        with self._transaction() as db:
            for statement in _SCHEMA.strip().split(";\n"):
                db.execute(statement)
            db.execute("INSERT INTO meta VALUES ('schema_version', ?)", (str(SCHEMA_VERSION),))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with _readable(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _rows(self, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
        with _readable(self.path):
            return self._db.execute(sql, arguments).fetchall()

    # What belongs to the study as a whole

    def meta(self, key: str) -> Any:
        """A JSON value kept under a name; None when there is none."""
        rows = self._rows("SELECT value FROM meta WHERE key = ?", key)
        with _undamaged(self.path):
            return json.loads(rows[0][0]) if rows else None

    def put_meta(self, **values: object) -> None:
        with self._transaction() as db:
            for key, value in values.items():
                db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))

    def begin_run(self, at: float) -> None:
        """Note that a run begins, in Unix seconds."""
        self.put_meta(runs=[*(self.meta("runs") or ()), at])

    def searched_s(self) -> float:
        """Seconds of searching in all runs so far, each from its begin to its last event."""
        starts = self.meta("runs") or []
        times = [at for (at,) in self._rows("SELECT at FROM events")]
        total = 0.0
        for start, end in zip(starts, [*starts[1:], math.inf], strict=False):
            total += max((at - start for at in times if start <= at < end), default=0.0)
        return total

    # Writing

    def ask(self, trial: Trial, *, duplicate_of: int | None = None) -> None:
        """Record a trial, as an "ask" event too, before anything is done with it."""
        params = None if trial.params is None else json.dumps(dict(trial.params))
        recipe = json.dumps(trial.recipe.plain())
        row = (trial.number, trial.origin, trial.name, trial.recipe.id, recipe, params)
        with self._transaction() as db:
            db.execute("INSERT INTO trials VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, duplicate_of))
            _event(db, "ask", trial.number)

    def tell(self, number: int) -> None:
        """Record that the sampler is told of a trial: a duplicate, or one measured before."""
        with self._transaction() as db:
            _event(db, "tell", number)

    def record(self, job: Job, outcome: Outcome, *, tell: bool = False) -> None:
        """Record what a job gave, and with `tell` that the sampler is told of it."""
        with self._transaction() as db:
            if isinstance(outcome, Measured):
                cursor = db.execute(
                    "INSERT INTO measurements (trial, part, block, timings, tokens, notes, at) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (
                        *job.key,
                        json.dumps(asdict(outcome.timings)),
                        outcome.tokens,
                        json.dumps(dict(outcome.notes)),
                        time.time(),
                    ),
                )
                db.executemany(
                    "INSERT INTO scores VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        (cursor.lastrowid, name, *row)
                        for name, scores in outcome.scores.items()
                        for row in _pack(scores)
                    ),
                )
            else:
                failure = (outcome.kind, redact(outcome.reason), redact(outcome.traceback))
                db.execute(
                    "INSERT INTO failures VALUES (?, ?, ?, ?, ?, ?)",
                    (job.trial, job.part, *failure, time.time()),
                )
            if tell:
                _event(db, "tell", job.trial)

    # Reading

    def trials(self) -> list[Trial]:
        rows = self._rows("SELECT number, recipe, origin, name, params FROM trials ORDER BY number")
        with _undamaged(self.path):
            return [
                Trial(
                    number,
                    Recipe.from_plain(json.loads(recipe)),
                    origin,
                    name,
                    None if params is None else json.loads(params),
                )
                for number, recipe, origin, name, params in rows
            ]

    def duplicates(self) -> dict[int, int]:
        """Trial → the earlier trial whose result it shares."""
        sql = "SELECT number, duplicate_of FROM trials WHERE duplicate_of IS NOT NULL"
        with _undamaged(self.path):
            return {int(number): int(of) for number, of in self._rows(sql)}

    def events(self) -> list[Event]:
        return [Event(*row) for row in self._rows("SELECT kind, trial FROM events ORDER BY seq")]

    def times(self) -> dict[int, tuple[float, float | None]]:
        """When each trial was asked and told, in Unix seconds; no order follows from them."""
        asked: dict[int, float] = {}
        told: dict[int, float] = {}
        for kind, trial, at in self._rows("SELECT kind, trial, at FROM events ORDER BY seq"):
            (asked if kind == "ask" else told)[trial] = at
        return {trial: (at, told.get(trial)) for trial, at in asked.items()}

    def outcomes(self, part: Part) -> dict[int, Outcome]:
        """Every result of one part by trial number, all its blocks together."""
        return dict(self.each_outcome(part))

    def each_outcome(self, part: Part) -> Iterator[tuple[int, Outcome]]:
        """The same one by one, which holds one trial's item scores in memory at a time.

        Measurements come first: of the search in the order in which the sampler was told of them,
        else in that of their first blocks. A trial with a failed block comes again, as a failure.
        """
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
            yield trial, together([self._measured(*row) for row in measured])
        for trial, kind, reason, traceback in self._rows(
            "SELECT trial, kind, reason, traceback FROM failures WHERE part = ? ORDER BY rowid",
            part,
        ):
            yield trial, Failed(kind, reason, traceback)

    def _measured(self, measurement: int, timings: str, tokens: int, notes: str) -> Measured:
        packed: dict[str, list[tuple[Any, ...]]] = {}
        for objective, *row in self._rows(
            "SELECT objective, task, ids, item_values, weights FROM scores "
            "WHERE measurement = ? ORDER BY objective, task",
            measurement,
        ):
            packed.setdefault(objective, []).append(tuple(row))
        with _undamaged(self.path):
            scores = {name: _unpack(rows) for name, rows in packed.items()}
            return Measured(scores, Timings(**json.loads(timings)), tokens, json.loads(notes))

    def blocks(self, part: Part) -> dict[int, int]:
        """How many blocks of a part each trial was measured on."""
        sql = "SELECT trial, count(*) FROM measurements WHERE part = ? GROUP BY trial"
        return {int(trial): int(n) for trial, n in self._rows(sql, part)}

    def failed(self, part: Part) -> set[int]:
        """The trials that gave no scores on a part."""
        sql = "SELECT trial FROM failures WHERE part = ?"
        return {int(trial) for (trial,) in self._rows(sql, part)}

    def counts(self) -> dict[str, int]:
        """How many trials were asked, measured and failed in the search, duplicates apart."""
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
    """Whether a folder holds a study."""
    return (run / FILE).is_file()


def _event(db: sqlite3.Connection, kind: str, trial: int) -> None:
    db.execute("INSERT INTO events (kind, trial, at) VALUES (?, ?, ?)", (kind, trial, time.time()))


def _pack(scores: ItemScores) -> Iterator[tuple[str, bytes, bytes, bytes | None]]:
    """One row a leaf task: ids as little-endian int32, values and weights as float64."""
    tasks = dict.fromkeys(task for task, _ in scores.items)
    for task in tasks:
        at = [i for i, (name, _) in enumerate(scores.items) if name == task]
        yield (
            task,
            np.array([scores.items[i][1] for i in at], dtype="<i4").tobytes(),
            np.array([scores.values[i] for i in at], dtype="<f8").tobytes(),
            None
            if scores.weights is None
            else np.array([scores.weights[i] for i in at], dtype="<f8").tobytes(),
        )


def _unpack(rows: Sequence[tuple[Any, ...]]) -> ItemScores:
    items: list[tuple[str, int]] = []
    values: list[float] = []
    weights: list[float] = []
    for task, ids, row_values, row_weights in rows:
        items += [(task, int(i)) for i in np.frombuffer(ids, dtype="<i4")]
        values += np.frombuffer(row_values, dtype="<f8").tolist()
        if row_weights is not None:
            weights += np.frombuffer(row_weights, dtype="<f8").tolist()
    return ItemScores(tuple(items), tuple(values), tuple(weights) or None)


@contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    """Say of rows that mean nothing that the disk changed them."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AssertionError, AttributeError) as error:
        raise StateError(
            f"{path}: a row cannot be read ({type(error).__name__}); the file is damaged; "
            "restore a copy, or start anew with another --out"
        ) from error


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into one sentence with what to do."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError, OverflowError) as error:
        if "full" in str(error) or "disk I/O" in str(error):
            advice = "free some space; what was measured is safe, the same command goes on"
        elif "locked" in str(error):
            advice = "another process holds it; try again"
        elif "readonly" in str(error) or "unable to open" in str(error):
            advice = "check that the folder and the file may be read and written"
        else:
            advice = "the file is damaged; restore a copy, or start anew with another --out"
        raise StateError(f"{path}: {error}; {advice}") from error
