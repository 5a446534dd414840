import functools
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automerge.errors import StateError
from automerge.objective import ItemScores
from automerge.recipe import Profile, Recipe, RecipeSource
from automerge.store.file import put
from automerge.store.run_folder import is_running
from automerge.store.store import FILE, Event, Store
from automerge.trial import Failed, Job, Measured, Timings, Trial
from tests.studies import toy_plan, toy_record, toy_store
from tests.toy import ITEMS, margins, scores

RECIPE = Recipe(
    "ties",
    (RecipeSource("a", {"weight": Profile.of({"attention": [0.1, 0.7], "default": 0.3})}),),
    base="base",
    knobs={"normalize": True, "lambda": Profile.of(1.25)},
    seed=3,
)
TRIAL = Trial(0, RECIPE, "sampler", "trial-0", {"method": "ties", "w": 0.25, "in": True})
JOB = Job(0, RECIPE, "search", ITEMS)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    weighted = ItemScores((("x", 3), ("x", 5), ("y", 1)), (1.5, -2.0, 0.25), (3.0, 4.0, 5.0))
    outcome = Measured(
        {**scores(RECIPE, ITEMS), "ppl": weighted},
        Timings(1, 2, 3, 7),
        11,
        {"truncated": 0.5},
        margins={"first": ItemScores((("one", 3), ("one", 4)), (0.1, -1e-9))},
    )
    with Store(tmp_path, write=True) as store:
        store.ask(TRIAL)
        store.record(JOB, outcome, tell=True)
        store.record(Job(0, RECIPE, "test", ITEMS), Failed("invalid", "NaN", "trace"))
    with Store(tmp_path, write=False) as store:
        assert store.trials() == [TRIAL]
        assert store.outcomes("search") == {0: outcome}
        assert store.outcomes("select") == {}
        assert store.outcomes("test") == {0: Failed("invalid", "NaN", "trace")}
        assert store.events() == [Event("ask", 0), Event("tell", 0)]
        assert store.counts() == {"asked": 1, "measured": 1, "failed": 0, "duplicates": 0}


def test_a_part_of_a_trial_is_measured_once(tmp_path: Path) -> None:
    with Store(tmp_path, write=True) as store:
        store.ask(TRIAL)
        store.record(JOB, Failed("error", "x"), tell=True)
        with pytest.raises(StateError):
            store.record(JOB, Failed("error", "y"), tell=True)
        assert store.outcomes("search") == {0: Failed("error", "x")}
        assert store.events() == [Event("ask", 0), Event("tell", 0)]


def test_one_writer_at_a_time_and_the_second_learns_who(tmp_path: Path) -> None:
    with Store(tmp_path, write=True):
        assert is_running(tmp_path)
        code = "from automerge.store.store import Store; from pathlib import Path; import sys\n"
        code += "Store(Path(sys.argv[1]), write=True)"
        child = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert f"in use by process {os.getpid()}" in child.stderr
        with Store(tmp_path, write=False) as reader:  # readers need no lock
            assert reader.trials() == []
    assert not is_running(tmp_path)
    with Store(tmp_path, write=True):
        pass


@pytest.mark.parametrize("content", [b"not a database", b"SQLite format 3\0" + b"\xff" * 4000])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(StateError, match=r"study\.sqlite.*damaged"):
        Store(tmp_path, write=True)


def test_a_missing_study_is_a_state_error_for_readers(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="No such file"):
        Store(tmp_path, write=False)


WRITER = """
import sys
from pathlib import Path
from automerge.store.store import Store
from automerge.trial import Job, Measured, Timings, Trial
from tests.store.test_store import RECIPE
from tests.toy import ITEMS, scores
store = Store(Path(sys.argv[1]), write=True)
for number in range(len(store.trials()), 100000):
    store.ask(Trial(number, RECIPE, "sampler", f"trial-{number}"))
    store.record(Job(number, RECIPE, "search", ITEMS), Measured(scores(RECIPE, ITEMS), Timings()))
    print(number, flush=True)
"""


@pytest.mark.parametrize("attempts", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_what_was_acknowledged_survives_kill_minus_nine(tmp_path: Path, attempts: int) -> None:
    for attempt in range(attempts):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        acknowledged = int(child.stdout.readline())
        time.sleep(0.03 * attempt)
        os.kill(child.pid, signal.SIGKILL)
        rest = child.stdout.read().split()
        child.wait()
        child.stdout.close()
        acknowledged = max([acknowledged, *map(int, rest)])
        with Store(tmp_path, write=False) as store:
            outcomes = store.outcomes("search")
            assert set(range(acknowledged + 1)) <= set(outcomes)
            measured = [o for o in outcomes.values() if isinstance(o, Measured)]
            assert all(o.scores == scores(RECIPE, ITEMS) for o in measured)
            assert len(measured) >= len(outcomes) - attempt  # the repairs below
            asked = len(store.trials())
            assert asked - len(outcomes) in (0, 1)
        with Store(tmp_path, write=True) as store:  # finish the trial in flight, as a resume does
            for number in range(len(outcomes), asked):
                store.record(Job(number, RECIPE, "search", ITEMS), Failed("error", ""))


def test_a_full_disk_is_named_and_loses_nothing(tmp_path: Path) -> None:
    with Store(tmp_path, write=True) as store:
        store.ask(TRIAL)
        pages = store._db.execute("PRAGMA page_count").fetchone()[0]
        store._db.execute(f"PRAGMA max_page_count = {pages}")

        def fill() -> None:
            for number in range(1, 1000):
                store.ask(Trial(number, RECIPE, "sampler", "x" * 200))

        with pytest.raises(StateError, match="free some space"):
            fill()
    connection = sqlite3.connect(tmp_path / FILE)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    with Store(tmp_path, write=False) as store:
        assert store.trials()[0] == TRIAL


def test_a_log_cut_anywhere_keeps_every_earlier_trial(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with Store(run, write=True) as store:
        for number in range(12):
            store.ask(Trial(number, RECIPE, "sampler", f"trial-{number}"))
        whole = (run / FILE).read_bytes()
        log = (run / f"{FILE}-wal").read_bytes()
    rng = random.Random(0)
    found = set()
    for cut in (
        0,
        1,
        31,
        32,
        len(log) - 1,
        len(log),
        *(rng.randrange(len(log)) for _ in range(40)),
    ):
        copy = tmp_path / f"cut-{cut}"
        copy.mkdir(exist_ok=True)
        (copy / FILE).write_bytes(whole)
        (copy / f"{FILE}-wal").write_bytes(log[:cut])
        try:
            with Store(copy, write=True) as store:
                kept = len(store.trials())
                assert [t.number for t in store.trials()] == list(range(kept))
                store.ask(Trial(kept, RECIPE, "sampler", "more"))
        except StateError:
            assert cut < 3 * 4200, "only what was cut before the schema was on disk is refused"
            continue
        found.add(kept)
        with Store(copy, write=False) as store:
            assert len(store.trials()) == kept + 1
    assert 12 in found
    assert len(found) > 4


@settings(max_examples=150)
@given(st.data())
def test_changed_bytes_are_read_or_refused_and_never_a_crash(data: st.DataObject) -> None:
    content = bytearray(_filled())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        (run / FILE).write_bytes(content)
        with suppress(StateError), Store(run, write=False) as store:
            store.trials()
            store.duplicates()
            store.events()
            store.times()
            store.counts()
            _ = store.begun and store.study
            store.outcomes("search")


@functools.cache
def _filled() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        with Store(run, write=True) as store:
            store.begin(toy_record(toy_plan(6)))
            for number in range(6):
                store.ask(Trial(number, RECIPE, "sampler", f"trial-{number}", {"w": 0.5}))
                found = Measured(
                    scores(RECIPE, ITEMS), Timings(), 3, margins=margins(RECIPE, ITEMS)
                )
                failed = Failed("error", "why", "where")
                store.record(Job(number, RECIPE, "search", ITEMS), failed if number == 3 else found)
        return (run / FILE).read_bytes()


@pytest.mark.parametrize("version", [0, 1, 2, 3, 4, 99, "one", None])
def test_another_schema_is_refused_by_its_version(tmp_path: Path, version: object) -> None:
    with Store(tmp_path, write=True) as store, store._transaction() as db:
        put(db, "schema_version", json.dumps(version))
    for write in (False, True):
        with pytest.raises(
            StateError, match=r"schema version.*; use the automerge that wrote it or"
        ):
            Store(tmp_path, write=write)
    (tmp_path / FILE).unlink()
    connection = sqlite3.connect(tmp_path / FILE)
    connection.execute("CREATE TABLE letters (dear TEXT)")
    connection.commit()
    connection.close()
    with pytest.raises(StateError, match=r"study\.sqlite"):
        Store(tmp_path, write=True)


def test_a_clock_set_back_changes_no_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**6, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    with Store(tmp_path, write=True) as store:
        for number in range(5):
            store.ask(Trial(number, RECIPE, "sampler", f"trial-{number}"))
        for number in (3, 1, 4):
            found = Measured(scores(RECIPE, ITEMS), Timings())
            store.record(Job(number, RECIPE, "search", ITEMS), found, tell=True)
    with Store(tmp_path, write=False) as store:
        assert [(e.kind, e.trial) for e in store.events()] == [
            *(("ask", n) for n in range(5)),
            *(("tell", n) for n in (3, 1, 4)),
        ]
        assert list(store.outcomes("search")) == [3, 1, 4]


@pytest.mark.parametrize("name", ["münchen 模型 🐟", "a b", "100%#?&x=1", "'\"$(ls)", "x" * 255])
def test_a_run_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    run = tmp_path / name / "run"
    run.mkdir(parents=True)
    with toy_store(run) as store:
        record = store.study
        with Store(run, write=False) as reader:
            assert reader.study == record
    linked = tmp_path / "link"
    linked.symlink_to(run)
    with Store(linked, write=True) as store:
        assert store.study == record


def test_failures_are_stored_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "planted-wandb-secret")
    reason = "401 from https://me:pass-word@hub for hf_abcdefghijklmnopqrstuvwx"
    with Store(tmp_path, write=True) as store:
        store.ask(TRIAL)
        store.record(JOB, Failed("error", reason, "key=planted-wandb-secret"))
        assert store.outcomes("search") == {
            0: Failed("error", "401 from https://***@hub for ***", "key=***")
        }
    for secret in (b"hf_abc", b"pass-word", b"planted"):
        assert all(secret not in file.read_bytes() for file in tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk read-only")
def test_a_disk_that_became_read_only_is_named(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with toy_store(disk) as store:
            record = store.study
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True, capture_output=True)
        with pytest.raises(StateError, match="cannot write to"):
            Store(disk, write=True)
        with Store(disk, write=False) as reader:
            assert reader.study == record
    finally:
        subprocess.run(["umount", disk], check=True)
