"""A stranger's run folder: whatever its store and its files are, it is read or refused by name."""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automerge import cli
from automerge.commands.search import write_reports
from automerge.errors import AutomergeError, StateError
from automerge.executors.local import LocalExecutor
from automerge.recipe import Recipe
from automerge.samplers import SAMPLERS
from automerge.space.method import METHOD
from automerge.store.file import STATEMENTS, TABLES, row_digest
from automerge.store.record import Run, StudyModel, StudyRecord
from automerge.store.result import ModelOrigin
from automerge.store.run_folder import LOCK, LOG, OWNER
from automerge.store.store import FILE, Store
from automerge.study import Driver
from automerge.trial import Failed, Job, Outcome
from tests.studies import SPACE, Unwatched, toy_plan, toy_record, toy_study
from tests.toy import OBJECTIVES, ToyWorker

COMMANDS = (
    ("status", "--json"),
    ("status",),
    ("report",),
    ("export-trials", "--format", "jsonl"),
    ("dashboard", "--no-serve"),
)


def everything(record: StudyRecord) -> StudyRecord:
    """Give a record what a toy study does without."""
    inputs = replace(
        record.begun.inputs,
        clusters={"one": tuple(i // 2 for i in range(40))},
        tasks={"one": "0" * 64},
        evidence={"input_gram": {"a": "0" * 32}},
        warnings=("a warning",),
        score_commands=(("lm_eval", "--tasks", "one"),),
    )
    origins = (ModelOrigin("base", "hub/base", "main", "0" * 64, "mit"),)
    models = (StudyModel("base", "hub/base", "main", "0" * 64, "0" * 64, "mit"),)
    return replace(
        record,
        begun=replace(record.begun, inputs=inputs, window=1, origins=origins),
        current=replace(record.current, models=models),
    )


@functools.cache
def study() -> Mapping[str, bytes]:
    """The files of a whole study, with a failure and facts of every kind."""

    def fails(job: Job) -> Outcome | None:
        return Failed("error", "made to fail", "where") if job.trial == 7 else None

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        run.mkdir()
        with Store(run, write=True) as store:
            store.begin(everything(toy_record(toy_plan(12))))
        toy_study(run, worker=ToyWorker(fail=fails))
        with Store(run, write=True) as store:
            versions = (*store.study.current.versions, Run(9, {"torch": "2.14.0"}))
            finished = "2026-01-01T00:01:00+00:00"
            store.renew(replace(store.study.current, finished=finished, versions=versions))
        write_reports(run)
        return {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}


@contextmanager
def run_folder(store: bytes | None = None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        run.mkdir()
        for name, content in study().items():
            (run / name).write_bytes(content)
        if store is not None:
            (run / FILE).write_bytes(store)
        yield run


def reseal(path: Path) -> None:
    """Give a changed store the digests and seals that automerge would have written."""
    db = sqlite3.connect(path, isolation_level=None)
    for table, (keys, columns) in TABLES.items():
        total = n = 0
        where = " AND ".join(f"{column} IS ?" for column in [*columns][:keys])
        for row in db.execute(f"SELECT {', '.join(columns)} FROM {table}").fetchall():
            try:
                digest = row_digest(table, row)
            except UnicodeError:
                digest = bytes(16)
            db.execute(f"UPDATE {table} SET digest = ? WHERE {where}", (digest, *row[:keys]))
            total, n = total + int.from_bytes(digest, "big"), n + 1
        seal = (n, (total % 2**128).to_bytes(16, "big"), table)
        db.execute("UPDATE seals SET n = ?, total = ? WHERE name = ?", seal)
    db.close()


@contextmanager
def in_time(seconds: int) -> Iterator[None]:
    """End what hangs: far longer than the slowest machine needs."""

    def hung(*_: object) -> None:
        raise AssertionError("hangs")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def codes(run: Path, commands: tuple[tuple[str, ...], ...] = COMMANDS) -> list[int]:
    found = []
    for name, *options in commands:
        arguments = [name, str(run), *options]
        with in_time(60):
            found.append(
                cli.entry.guarded(lambda: cli.app(arguments, standalone_mode=False))  # noqa: B023
            )
    return found


def resume(run: Path) -> None:
    """Go on with the toy study, as a session does."""
    with Store(run, write=True) as store:
        Driver(
            store,
            toy_plan(14),
            SPACE,
            SAMPLERS["random"](SPACE, len(OBJECTIVES), 0, 14),
            lambda: LocalExecutor(ToyWorker),
            Unwatched(),
            lambda: False,
        ).run()


def test_the_study_these_tests_change_is_read_by_every_command() -> None:
    with run_folder() as run:
        reseal(run / FILE)
        assert codes(run) == [0] * len(COMMANDS)
        resume(run)
        assert codes(run) == [0] * len(COMMANDS)


def test_zeroed_pages_are_refused_or_change_nothing() -> None:
    content = study()[FILE]
    size = int.from_bytes(content[16:18], "big")
    refused = 0
    for page in range(len(content) // size):
        changed = content[: page * size] + bytes(size) + content[(page + 1) * size :]
        refused += is_refused_or_the_same(changed)
    assert refused >= 0.8 * len(content) // size


@pytest.mark.parametrize("draws", [10, pytest.param(30, marks=pytest.mark.slow)])
def test_changed_bytes_are_refused_or_change_nothing(draws: int) -> None:
    content = study()[FILE]
    draw = random.Random(0)
    refused = 0
    for _ in range(draws):
        changed = bytearray(content)
        for _ in range(draw.choice((1, 1, 4))):
            changed[draw.randrange(len(changed))] ^= draw.randrange(1, 256)
        refused += is_refused_or_the_same(bytes(changed))
    assert refused > draws / 3


def is_refused_or_the_same(store: bytes) -> bool:
    with run_folder(store) as run:
        before = (run / "front.json").read_bytes()
        (code,) = codes(run, (("report",),))
        assert code in (0, 5)
        assert (run / "front.json").read_bytes() == before
        return code == 5


def test_every_bit_of_a_stored_score_is_seen() -> None:
    with run_folder() as run:
        db = sqlite3.connect(run / FILE)
        (values,) = db.execute("SELECT item_values FROM scores").fetchone()
        db.close()
        content = (run / FILE).read_bytes()
        at = content.index(values)
        for bit in range(0, 8 * len(values), 97):
            changed = bytearray(content)
            changed[at + bit // 8] ^= 1 << bit % 8
            (run / FILE).write_bytes(changed)
            with pytest.raises(StateError, match=r"table scores, row 1, 'first', 'one': it is not"):
                Store(run, write=False)


def test_a_lost_row_is_seen() -> None:
    for table in TABLES:
        with run_folder() as run:
            db = sqlite3.connect(run / FILE)
            key = next(iter(TABLES[table][1]))
            last = f"SELECT max({key}) FROM {table} WHERE {key} != 'schema_version'"
            db.execute(f"DELETE FROM {table} WHERE {key} = ({last})")
            db.commit()
            db.close()
            with pytest.raises(StateError, match=f"rows of the table {table} were lost"):
                Store(run, write=False)


HOSTILE: tuple[Any, ...] = (
    None, "", "x", "../../x", "/abs/x", b"", b"\xff" * 7, b"\0" * 8,
    b"\0\0\0\0\0\0\xf8\x7f" * 40, 0, -1, 1, 5, 7, 2**31, 2**62, -(2**63), 0.5, -1e308, 1e308,
    float("inf"), "NaN", "null", "[]", "{}", "[null]", '"x"', "1e999", "-1", "9" * 5000,
    "[" * 50_000, '{"a":' * 5000 + "1" + "}" * 5000, '{"a": NaN}', "x" * 100_000,
    "\x1b[2J\u202e", "ask", "tell", "search", "select", "test", "explain", "[0.7, 0.7]",
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=40)
@given(st.data())
def test_any_value_of_any_column_is_read_or_refused_by_name(data: st.DataObject) -> None:
    table = data.draw(st.sampled_from(sorted(TABLES)))
    column = data.draw(st.sampled_from(sorted(TABLES[table][1])))
    value = data.draw(st.sampled_from(HOSTILE))
    with run_folder() as run:
        db = sqlite3.connect(run / FILE)
        n = db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        row = data.draw(st.integers(0, n - 1))
        key = [*TABLES[table][1]][: TABLES[table][0]]
        chosen = db.execute(f"SELECT {', '.join(key)} FROM {table} LIMIT 1 OFFSET {row}").fetchone()
        where = " AND ".join(f"{name} IS ?" for name in key)
        try:
            db.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (value, *chosen))
        except sqlite3.Error:
            return
        finally:
            db.commit()
            db.close()
        read_or_refused(run, data.draw(st.sampled_from(COMMANDS)))


def spoilt(value: Any) -> st.SearchStrategy[Any]:
    """A JSON value with one of its parts replaced by another."""
    other = st.sampled_from(
        (None, True, -1, 0, 1, 10**9, 10**40, 1e308, float("nan"), "", "x", "../../x", "\ud800",
         "\x1b]0;x\x07", [], {}, [[]], [None], {"x": None}, [10**6] * 3, "unlimited", 7, 12, 99)
    )  # fmt: skip
    if isinstance(value, dict) and value:
        keys = st.sampled_from(sorted(value))
        return other | keys.flatmap(
            lambda key: (
                st.just({k: v for k, v in value.items() if k != key})
                | spoilt(value[key]).map(lambda new: {**value, key: new})
            )
        )
    if isinstance(value, list) and value:
        places = st.integers(0, len(value) - 1)
        return other | places.flatmap(
            lambda at: spoilt(value[at]).map(lambda new: [*value[:at], new, *value[at + 1 :]])
        )
    return other


JSON = (
    *[("meta", "value")] * 4,
    ("trials", "recipe"),
    ("trials", "params"),
    ("measurements", "timings"),
    ("measurements", "notes"),
)


@pytest.mark.slow
@settings(max_examples=40)
@given(st.data())
def test_any_part_of_any_fact_and_recipe_is_read_or_refused_by_name(data: st.DataObject) -> None:
    table, column = data.draw(st.sampled_from(JSON))
    key = next(iter(TABLES[table][1]))
    with run_folder() as run:
        db = sqlite3.connect(run / FILE)
        rows = db.execute(f"SELECT {key}, {column} FROM {table} ORDER BY {key}").fetchall()
        chosen, text = data.draw(st.sampled_from(rows))
        new = json.dumps(data.draw(spoilt(json.loads(text or "null"))))
        db.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (new, chosen))
        if column == "recipe":
            with suppress(ValueError, TypeError, KeyError, AttributeError):
                own = Recipe.from_plain(json.loads(new)).id
                db.execute("UPDATE trials SET recipe_id = ? WHERE number = ?", (own, chosen))
        db.commit()
        db.close()
        read_or_refused(run, data.draw(st.sampled_from(COMMANDS)))


def test_recorded_parameters_that_lack_one_are_refused_by_trial() -> None:
    with run_folder() as run:
        db = sqlite3.connect(run / FILE)
        rows = db.execute("SELECT number, params FROM trials WHERE origin = 'sampler'").fetchall()
        for number, text in rows:
            params = json.loads(text)
            lacking = {name: params[name] for name in params if name == METHOD}
            assert lacking != params
            db.execute(
                "UPDATE trials SET params = ? WHERE number = ?", (json.dumps(lacking), number)
            )
        db.commit()
        db.close()
        reseal(run / FILE)
        with pytest.raises(StateError, match=rf"trial {rows[0][0]}: its parameters .* lack"):
            resume(run)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("trials SET direction = '[0.7, 0.7]' WHERE number = 5", "goals that sum to 1"),
        ("trials SET direction = '[1.0]' WHERE number = 5", "goals that sum to 1"),
        ("trials SET direction = '[-0.5, 1.5]' WHERE number = 5", "greater than or equal to 0"),
        ("measurements SET part = 'explain' WHERE id = 1", "items of this part and task"),
    ],
)
def test_what_a_trial_was_for_and_what_explains_it_are_checked(change: str, said: str) -> None:
    with run_folder() as run:
        db = sqlite3.connect(run / FILE)
        db.execute(f"UPDATE {change}")
        db.commit()
        db.close()
        reseal(run / FILE)
        with pytest.raises(StateError, match=said):
            Store(run, write=False)


def read_or_refused(run: Path, command: tuple[str, ...]) -> None:
    reseal(run / FILE)
    outside = sorted(run.parent.iterdir())
    (code,) = codes(run, (command,))
    assert code in (0, 5)
    if code == 0:
        with suppress(AutomergeError), in_time(60):
            resume(run)
    assert sorted(run.parent.iterdir()) == outside


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE VIEW v AS SELECT * FROM trials",
        "CREATE TRIGGER t AFTER INSERT ON events BEGIN DELETE FROM trials; END",
        "CREATE TABLE more (x)",
        "CREATE INDEX i ON trials (name)",
        "DROP TABLE failures",
    ],
)
def test_tables_of_others_are_refused(statement: str) -> None:
    with run_folder() as run:
        db = sqlite3.connect(run / FILE)
        db.execute(statement)
        db.close()
        assert codes(run, (("status",),)) == [5]


def test_a_view_in_place_of_a_table_that_never_ends_is_refused() -> None:
    endless = (
        "CREATE VIEW meta AS WITH RECURSIVE n(key, value, digest) AS (SELECT '', '', x'' UNION ALL "
        "SELECT key || 'x', '', x'' FROM n) SELECT * FROM n"
    )
    with run_folder() as run:
        (run / FILE).unlink()
        db = sqlite3.connect(run / FILE)
        for statement in (endless, *STATEMENTS[1:]):
            db.execute(statement)
        db.close()
        assert codes(run, (("status",), ("report",))) == [5, 5]


def hot_journal(super_journal: bytes = b"") -> bytes:
    """A rollback journal that a killed writer left, naming another file or none."""
    header = bytes.fromhex("d9d505f920a163d7") + (0).to_bytes(4, "big") + (1).to_bytes(4, "big")
    header += (1).to_bytes(4, "big") + (512).to_bytes(4, "big") + (4096).to_bytes(4, "big")
    end = b""
    if super_journal:
        end = (0x40000000 // 4096 + 1).to_bytes(4, "big") + super_journal
        end += len(super_journal).to_bytes(4, "big")
        end += (sum(super_journal) % 2**32).to_bytes(4, "big") + header[:8]
    return header.ljust(512, b"\0") + end


@pytest.mark.parametrize("command", ["status", "report"])
def test_a_journal_that_names_a_file_deletes_none(command: str) -> None:
    with run_folder() as run:
        precious = run.parent / "precious"
        precious.write_text("mine")
        (run / f"{FILE}-journal").write_bytes(hot_journal(str(precious).encode()))
        assert codes(run, ((command,),)) == [5]
        with pytest.raises(StateError, match="names another file"):
            Store(run, write=True)
        assert precious.read_text() == "mine"


def test_reading_changes_nothing_of_what_a_killed_writer_left(tmp_path: Path) -> None:
    with run_folder() as run:
        with Store(run, write=True) as store:
            store.renew(replace(store.study.current, finished="later"))
            files = {p.name: p.read_bytes() for p in run.iterdir()}
        killed = tmp_path / "killed"
        killed.mkdir()
        for name, content in files.items():
            if not name.endswith(("-shm", LOCK, OWNER)):
                (killed / name).write_bytes(content)
        before = {p.name: p.read_bytes() for p in killed.iterdir()}
        assert f"{FILE}-wal" in before
        with Store(killed, write=False) as store:
            assert store.study.current.finished == "later"
        assert {p.name: p.read_bytes() for p in killed.iterdir()} == before


@pytest.mark.parametrize(
    "name",
    [FILE, f"{FILE}-wal", f"{FILE}-journal", LOCK, OWNER, LOG, "front.json", "models", "tasks"],
)
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_links_and_pipes_in_a_run_folder_are_refused(name: str, kind: str) -> None:
    with run_folder() as run:
        victim = run.parent / "victim"
        shutil.copy(run / FILE, victim)
        before = victim.read_bytes()
        (run / name).unlink(missing_ok=True)
        if kind == "link":
            (run / name).symlink_to(victim)
        else:
            os.mkfifo(run / name)
        assert codes(run, (("status",), ("report",))) == [5, 5]
        with pytest.raises(StateError), in_time(60):
            Store(run, write=True)
        assert victim.read_bytes() == before
        assert sorted(p.name for p in run.parent.iterdir()) == ["run", "victim"]


def test_the_disk_is_asked_to_keep_every_transaction() -> None:
    """EXTRA (3): each commit is flushed, and a rollback journal's removal too."""
    with run_folder() as run, Store(run, write=True) as store:
        assert store._db.execute("PRAGMA synchronous").fetchone() == (3,)
