"""The log of a search: times, one line per message, and no harm to the search."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from automerge.commands.interrupt import Stopped
from automerge.commands.run_log import Logged, RunLog
from automerge.errors import PreflightError
from automerge.store.run_folder import LOG
from automerge.study import Snapshot
from tests.studies import Unwatched


def refuse(message: str) -> None:
    raise AssertionError(message)


def said(run: Path) -> list[str]:
    """The lines without their times."""
    return [line[22:] for line in (run / LOG).read_text().splitlines()]


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """The kernel refuses to write beyond a size, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_lines_have_their_time_and_runs_are_appended(tmp_path: Path) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    for message in ("first", "second\nwith more"):
        with RunLog(tmp_path, refuse) as log:
            log.write(message)
    lines = (tmp_path / LOG).read_text().splitlines()
    assert [line[22:] for line in lines] == ["first", "second", "with more"]
    for line in lines[:2]:
        assert re.fullmatch(r"[\d-]{10}T[\d:]{8}Z  .*", line)
        assert before <= datetime.fromisoformat(line[:20]) <= datetime.now(UTC)
    assert lines[2].startswith(" " * 22)


def test_a_line_that_a_killed_process_left_torn_is_ended(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text("2026-01-01T00:00:00Z  searching 3/6")
    with RunLog(tmp_path, refuse) as log:
        log.write("resumed")
    assert said(tmp_path) == ["searching 3/6", "resumed"]


@pytest.mark.parametrize(
    ("error", "last"),
    [
        (PreflightError("no GPU"), "failed: no GPU"),
        (Stopped(15), "stopped immediately; the same command resumes"),
        (ZeroDivisionError("what"), "ZeroDivisionError: what"),
    ],
)
def test_the_last_line_says_which_error_ended_a_search(
    tmp_path: Path, error: BaseException, last: str
) -> None:
    with suppress(type(error)), RunLog(tmp_path, refuse):
        raise error
    assert said(tmp_path)[-1] == last


def test_phases_and_measurements_are_logged_and_handed_on(tmp_path: Path) -> None:
    seen: list[object] = []

    class Watching(Unwatched):
        def update(self, snapshot: Snapshot) -> None:
            seen.append(snapshot)

        def note(self, message: str) -> None:
            seen.append(message)

    with RunLog(tmp_path, refuse) as log:
        observer = Logged(log, Watching())
        given = [
            Snapshot("search", 1, 2, 1, 1, 0, (), "base"),
            Snapshot("search", 2, 2, 0, 1, 0, (), "\x1b[2J in " + str(tmp_path)),
            Snapshot("test", 1, 1, 0, 1, 0, (), "base"),
        ]
        for snapshot in given:
            observer.update(snapshot)
        observer.note("a note")
    assert seen == [*given, "a note"]
    assert said(tmp_path) == [
        "phase       searching, workers: 1",
        "searching 1/2  base",
        "searching 2/2  \\u001b[2J in RUN",
        "phase       testing, workers: 1",
        "testing 1/1  base",
        "note: a note",
    ]


def test_a_full_disk_is_one_warning(tmp_path: Path) -> None:
    warnings: list[str] = []
    with no_file_larger_than(100), RunLog(tmp_path, warnings.append) as log:
        for _ in range(20):
            log.write("one line of the log")
    assert len(warnings) == 1
    assert "log.txt cannot be written: File too large; the search goes on" in warnings[0]
    with RunLog(tmp_path, refuse) as log:  # there is space again, after a torn line
        log.write("resumed")
    assert said(tmp_path)[-1] == "resumed"
    assert len((tmp_path / LOG).read_text().splitlines()) == 4


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_only_a_plain_file_is_written(tmp_path: Path, kind: str) -> None:
    run, victim = tmp_path / "run", tmp_path / "victim"
    run.mkdir()
    victim.write_text("mine")
    if kind == "link":
        (run / LOG).symlink_to(victim)
    elif kind == "pipe":
        os.mkfifo(run / LOG)
    else:
        (run / LOG).mkdir()
    warnings: list[str] = []
    with RunLog(run, warnings.append) as log:
        log.write("a line", "another")
    assert len(warnings) == 1
    assert victim.read_text() == "mine"
