"""The file that a study is stored in: opened without trust, and read back as it was written.

Every row has a digest of itself, and `seals` has a count and a sum of the digests of each table, so
that a changed, added or lost row is detected, which SQLite does not do. The schema is described in
docs/store.md.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import Any, TypeAlias

from automerge.errors import StateError
from automerge.store.run_folder import check_own_files, is_running

SCHEMA_VERSION = 8
FILE = "study.sqlite"
MAX_BYTES = 2**34
"""No study's file is larger."""
MAX_VALUE = 2**28
"""The maximum size of a text or blob in bytes."""

Value: TypeAlias = str | int | float | bytes | None
Types: TypeAlias = tuple[type, ...]

_TEXT: Types = (str,)
_INT: Types = (int,)
_REAL: Types = (float,)
_BLOB: Types = (bytes,)

TABLES: Mapping[str, tuple[int, Mapping[str, Types]]] = {
    "meta": (1, {"key": _TEXT, "value": _TEXT}),
    "trials": (
        1,
        {
            "number": _INT,
            "origin": _TEXT,
            "name": _TEXT,
            "recipe_id": _TEXT,
            "recipe": _TEXT,
            "params": (str, NoneType),
            "duplicate_of": (int, NoneType),
            "slopes": _REAL,
            "direction": (str, NoneType),
        },
    ),
    "events": (1, {"seq": _INT, "kind": _TEXT, "trial": _INT, "at": _REAL}),
    "measurements": (
        1,
        {
            "id": _INT,
            "trial": _INT,
            "part": _TEXT,
            "block": _INT,
            "timings": _TEXT,
            "tokens": _INT,
            "notes": _TEXT,
            "at": _REAL,
        },
    ),
    "scores": (
        3,
        {
            "measurement": _INT,
            "objective": _TEXT,
            "task": _TEXT,
            "ids": _BLOB,
            "item_values": _BLOB,
            "weights": (bytes, NoneType),
        },
    ),
    "margins": (
        3,
        {
            "measurement": _INT,
            "objective": _TEXT,
            "task": _TEXT,
            "ids": _BLOB,
            "item_margins": _BLOB,
        },
    ),
    "slopes": (
        2,
        {
            "measurement": _INT,
            "objective": _TEXT,
            "loss": _REAL,
            "numbers": _BLOB,
            "derivatives": _BLOB,
        },
    ),
    "answers": (
        3,
        {
            "measurement": _INT,
            "objective": _TEXT,
            "task": _TEXT,
            "ids": _BLOB,
            "texts": _TEXT,
        },
    ),
    "failures": (
        2,
        {
            "trial": _INT,
            "part": _TEXT,
            "kind": _TEXT,
            "reason": _TEXT,
            "traceback": _TEXT,
            "at": _REAL,
        },
    ),
}
"""The tables: how many of the first columns identify a row, and the types of all columns."""

_SQL = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL, digest BLOB NOT NULL);
CREATE TABLE trials (
    number INTEGER PRIMARY KEY, origin TEXT NOT NULL, name TEXT NOT NULL,
    recipe_id TEXT NOT NULL, recipe TEXT NOT NULL, params TEXT, duplicate_of INTEGER,
    slopes REAL NOT NULL, direction TEXT, digest BLOB NOT NULL);
CREATE TABLE events (
    seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, trial INTEGER NOT NULL, at REAL NOT NULL,
    digest BLOB NOT NULL);
CREATE TABLE measurements (
    id INTEGER PRIMARY KEY, trial INTEGER NOT NULL, part TEXT NOT NULL, block INTEGER NOT NULL,
    timings TEXT NOT NULL, tokens INTEGER NOT NULL, notes TEXT NOT NULL, at REAL NOT NULL,
    digest BLOB NOT NULL, UNIQUE (trial, part, block));
CREATE TABLE scores (
    measurement INTEGER NOT NULL, objective TEXT NOT NULL, task TEXT NOT NULL,
    ids BLOB NOT NULL, item_values BLOB NOT NULL, weights BLOB, digest BLOB NOT NULL,
    PRIMARY KEY (measurement, objective, task)) WITHOUT ROWID;
CREATE TABLE margins (
    measurement INTEGER NOT NULL, objective TEXT NOT NULL, task TEXT NOT NULL,
    ids BLOB NOT NULL, item_margins BLOB NOT NULL, digest BLOB NOT NULL,
    PRIMARY KEY (measurement, objective, task)) WITHOUT ROWID;
CREATE TABLE slopes (
    measurement INTEGER NOT NULL, objective TEXT NOT NULL, loss REAL NOT NULL,
    numbers BLOB NOT NULL, derivatives BLOB NOT NULL, digest BLOB NOT NULL,
    PRIMARY KEY (measurement, objective)) WITHOUT ROWID;
CREATE TABLE answers (
    measurement INTEGER NOT NULL, objective TEXT NOT NULL, task TEXT NOT NULL,
    ids BLOB NOT NULL, texts TEXT NOT NULL, digest BLOB NOT NULL,
    PRIMARY KEY (measurement, objective, task)) WITHOUT ROWID;
CREATE TABLE failures (
    trial INTEGER NOT NULL, part TEXT NOT NULL, kind TEXT NOT NULL, reason TEXT NOT NULL,
    traceback TEXT NOT NULL, at REAL NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (trial, part));
CREATE TABLE seals (name TEXT PRIMARY KEY, n INTEGER NOT NULL, total BLOB NOT NULL)
"""
STATEMENTS = tuple(statement.strip() for statement in _SQL.strip().split(";\n"))

_DIGEST = 16
_SUPER_JOURNAL = bytes.fromhex("d9d505f920a163d7")
"""The end of a rollback journal that names a file for SQLite to delete; no study's does."""
_STEPS = 10_000_000
_STEPS_PER_BYTE = 20
_STEPS_AT_ONCE = 100_000
"""Limits on the steps of SQLite's machine to check a file; pages that form a cycle take more."""


def connect(path: Path, *, write: bool) -> tuple[sqlite3.Connection, Path | None]:
    """Open a study's file.

    A reader never changes the run folder: what a killed writer left unfinished is read from a copy,
    in which SQLite can complete or undo it.

    Returns:
        The connection, and the folder of a private copy for the caller to delete, if there is one.
    """
    run = path.parent
    check_own_files(run)
    journal = path.with_name(f"{path.name}-journal")
    _check_journal(journal)
    for file in _parts(path):
        if file.exists() and file.stat().st_size > MAX_BYTES:
            raise StateError(f"{file}: larger than {MAX_BYTES >> 30} GiB; not the file of a study")
    copy = None
    if not write and not is_running(run) and _is_unfinished(path):
        copy = Path(tempfile.mkdtemp(prefix="automerge-study-"))
        for file in _parts(path):
            if file.exists():
                shutil.copyfile(file, copy / file.name)
        path = copy / path.name
    mode = "rwc" if write else "rw" if copy else "ro"
    db = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode={mode}", timeout=60, uri=True, isolation_level=None
    )
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE)
    db.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    db.execute("PRAGMA trusted_schema = OFF")
    return db, copy


def _parts(path: Path) -> tuple[Path, ...]:
    """Return the file and what SQLite keeps beside it, except its index of the log."""
    return path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-journal")


def _is_unfinished(path: Path) -> bool:
    """Return whether a dead writer left a log, a journal, or a file that expects a log."""
    if any(part.exists() for part in _parts(path)[1:]):
        return True
    with path.open("rb") as file:
        return file.read(20)[18:20] == b"\2\2"


def _check_journal(journal: Path) -> None:
    """Refuse a journal that would make SQLite delete another file."""
    try:
        with journal.open("rb") as file:
            file.seek(-min(journal.stat().st_size, len(_SUPER_JOURNAL)), 2)
            end = file.read()
    except FileNotFoundError:
        return
    if end == _SUPER_JOURNAL:
        raise StateError(
            f"{journal}: names another file, which SQLite would delete; automerge never writes "
            "such a journal: do not use this folder, or remove the journal"
        )


def create(db: sqlite3.Connection) -> None:
    """Create the tables, empty and sealed; call inside a transaction."""
    for statement in STATEMENTS:
        db.execute(statement)
    db.executemany(
        "INSERT INTO seals VALUES (?, 0, ?)", [(name, bytes(_DIGEST)) for name in TABLES]
    )


def insert(db: sqlite3.Connection, table: str, rows: Iterable[Sequence[Value]]) -> None:
    """Add rows, each with its digest; call inside a transaction."""
    marks = ", ".join("?" * (len(TABLES[table][1]) + 1))
    n = total = 0
    for row in rows:
        digest = row_digest(table, row)
        db.execute(f"INSERT INTO {table} VALUES ({marks})", (*row, digest))
        n += 1
        total += int.from_bytes(digest, "big")
    _reseal(db, table, n, total)


def put(db: sqlite3.Connection, key: str, value: str) -> None:
    """Set a fact in `meta`; call inside a transaction."""
    for (digest,) in db.execute("SELECT digest FROM meta WHERE key = ?", (key,)).fetchall():
        db.execute("DELETE FROM meta WHERE key = ?", (key,))
        _reseal(db, "meta", -1, -int.from_bytes(digest, "big"))
    insert(db, "meta", [(key, value)])


def next_number(db: sqlite3.Connection, table: str) -> int:
    """Return the number of the next row; call inside a transaction."""
    column = next(iter(TABLES[table][1]))
    found: int = db.execute(f"SELECT coalesce(max({column}), 0) + 1 FROM {table}").fetchone()[0]
    return found


def row_digest(table: str, row: Sequence[Value]) -> bytes:
    """Return sixteen bytes that identify a row's content, including its types."""
    digest = hashlib.blake2b(table.encode(), digest_size=_DIGEST)
    for value in row:
        if isinstance(value, bytes):
            kind, content = b"b", value
        elif isinstance(value, str):
            kind, content = b"t", value.encode()
        elif isinstance(value, float):
            kind, content = b"r", struct.pack("<d", value)
        else:
            kind, content = b"i", str(value).encode()
        digest.update(kind + len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.digest()


def _reseal(db: sqlite3.Connection, table: str, n: int, total: int) -> None:
    before_n, before = db.execute("SELECT n, total FROM seals WHERE name = ?", (table,)).fetchone()
    after = (int.from_bytes(before, "big") + total) % 2 ** (8 * _DIGEST)
    seal = (before_n + n, after.to_bytes(_DIGEST, "big"), table)
    db.execute("UPDATE seals SET n = ?, total = ? WHERE name = ?", seal)


def check_schema(db: sqlite3.Connection, path: Path) -> None:
    """Refuse other versions, tables other than ours, and views and triggers, which would run."""
    found = dict(db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
    if str(found.get("meta")).startswith("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT"):
        rows = db.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchall()
        version = str(rows[0][0])[:40] if rows else "nothing"
        if version != str(SCHEMA_VERSION):
            raise StateError(
                f"{path} has schema version {version}, but this automerge reads version "
                f"{SCHEMA_VERSION}; use the automerge that wrote it or choose another --out"
            )
    if sorted(found.values()) != sorted(STATEMENTS):
        raise refusal(path, "its tables are not those of a study")


def check_rows(db: sqlite3.Connection, path: Path) -> None:
    """Refuse a file whose pages, types, digests or seals are not as they were written."""
    (found,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        raise refusal(path, str(found).splitlines()[-1])
    seals = {name: (n, total) for name, n, total in db.execute("SELECT * FROM seals")}
    for table, (_, columns) in TABLES.items():
        names = ", ".join(columns)
        n = total = 0
        for *row, digest in db.execute(f"SELECT {names}, digest FROM {table}"):
            _check_types(path, table, columns, row)
            if row_digest(table, row) != digest:
                raise refusal(path, "it is not what automerge wrote", table, row)
            n += 1
            total += int.from_bytes(digest, "big")
        if seals.get(table) != (n, (total % 2 ** (8 * _DIGEST)).to_bytes(_DIGEST, "big")):
            raise refusal(path, f"rows of the table {table} were lost or added")


def _check_types(
    path: Path, table: str, columns: Mapping[str, Types], row: Sequence[Value]
) -> None:
    for (column, types), value in zip(columns.items(), row, strict=True):
        if not isinstance(value, types):
            expected = " or ".join(_SAID[kind] for kind in types)
            problem = f"expected {expected}, got {_SAID[type(value)]}"
            raise refusal(path, problem, table, row, column)


_SAID = {str: "text", int: "an integer", float: "a number", bytes: "bytes", NoneType: "nothing"}


def refusal(
    path: Path,
    problem: str,
    table: str | None = None,
    row: Sequence[Any] = (),
    column: str | None = None,
) -> StateError:
    """Return the error for a file, row or value that automerge did not write."""
    where = str(path)
    if table is not None:
        key = ", ".join(repr(value)[:60] for value in row[: TABLES[table][0]])
        where += f", table {table}, row {key}" + (f", {column}" if column else "")
    return StateError(
        f"{where}: {problem}; the file is damaged or was changed: restore a copy or start again "
        "with another --out"
    )


@contextmanager
def bounded(db: sqlite3.Connection, path: Path) -> Iterator[None]:
    """Give up on a file whose pages form a cycle."""
    size = sum(part.stat().st_size for part in _parts(path) if part.exists())
    left = (_STEPS + _STEPS_PER_BYTE * size) // _STEPS_AT_ONCE

    def step() -> int:
        nonlocal left
        left -= 1
        return left < 0

    db.set_progress_handler(step, _STEPS_AT_ONCE)
    try:
        yield
    finally:
        db.set_progress_handler(None, 0)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into a sentence that says what to do."""
    try:
        yield
    except (sqlite3.Error, UnicodeError, OverflowError, OSError) as error:
        said = str(error.strerror if isinstance(error, OSError) else error)
        if isinstance(error, UnicodeError) or "decode to UTF-8" in str(error):
            raise refusal(path, "a text is not UTF-8") from error
        if "interrupted" in str(error):
            raise refusal(path, "its pages refer to each other without end") from error
        if "full" in str(error) or "disk I/O" in str(error):
            advice = "free some space; nothing measured is lost: run the same command to resume"
        elif "locked" in str(error):
            advice = "another process is using it; try again"
        elif isinstance(error, OSError) or "readonly" in said or "unable to open" in said:
            advice = "check that the folder and the file may be read and written"
        else:
            advice = "the file is damaged; restore a copy or start again with another --out"
        raise StateError(f"{path}: {said}; {advice}") from error
