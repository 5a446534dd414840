import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from automerge.errors import StateError
from automerge.objective import ItemScores
from automerge.recipe import Profile, Recipe, RecipeSource
from automerge.run_folder import is_running
from automerge.store import FILE, Event, Store
from automerge.trial import Failed, Job, Measured, Timings, Trial
from tests.toy import ITEMS, scores

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
        {**scores(RECIPE, ITEMS), "ppl": weighted}, Timings(1, 2, 3, 7), 11, {"truncated": 0.5}
    )
    with Store(tmp_path, write=True) as store:
        store.put_meta(config={"a": [1, None]}, name="x")
        store.ask(TRIAL)
        store.record(JOB, outcome)
        store.record(Job(0, RECIPE, "test", ITEMS), Failed("invalid", "NaN", "trace"))
    with Store(tmp_path, write=False) as store:
        assert store.meta("config") == {"a": [1, None]}
        assert store.meta("nothing") is None
        assert store.trials() == [TRIAL]
        assert store.outcomes("search") == {0: outcome}
        assert store.outcomes("select") == {}
        assert store.outcomes("test") == {0: Failed("invalid", "NaN", "trace")}
        assert store.events() == [Event("ask", 0), Event("tell", 0)]
        assert store.counts() == {"asked": 1, "measured": 1, "failed": 0, "duplicates": 0}


def test_a_part_of_a_trial_is_measured_once(tmp_path: Path) -> None:
    with Store(tmp_path, write=True) as store:
        store.ask(TRIAL)
        store.record(JOB, Failed("error", "x"))
        with pytest.raises(StateError):
            store.record(JOB, Failed("error", "y"))
        assert store.outcomes("search") == {0: Failed("error", "x")}
        assert store.events() == [Event("ask", 0), Event("tell", 0)]


def test_one_writer_at_a_time_and_the_second_learns_who(tmp_path: Path) -> None:
    with Store(tmp_path, write=True):
        assert is_running(tmp_path)
        code = "from automerge.store import Store; from pathlib import Path; import sys\n"
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


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path, write=True) as store:
        store.put_meta(schema_version=99)
    with pytest.raises(StateError, match="schema version 99"):
        Store(tmp_path, write=False)


def test_a_missing_study_is_a_state_error_for_readers(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="unable to open"):
        Store(tmp_path, write=False)


WRITER = """
import sys
from pathlib import Path
from automerge.store import Store
from automerge.trial import Job, Measured, Timings, Trial
from tests.test_store import RECIPE
from tests.toy import ITEMS, scores
store = Store(Path(sys.argv[1]), write=True)
for number in range(len(store.trials()), 100000):
    store.ask(Trial(number, RECIPE, "sampler", f"trial-{number}"))
    store.record(Job(number, RECIPE, "search", ITEMS), Measured(scores(RECIPE, ITEMS), Timings()))
    print(number, flush=True)
"""


def test_what_was_acknowledged_survives_kill_minus_nine(tmp_path: Path) -> None:
    for attempt in range(4):
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
                store.ask(Trial(number, RECIPE, "sampler", "x" * 500))

        with pytest.raises(StateError, match="free some space"):
            fill()
    connection = sqlite3.connect(tmp_path / FILE)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    with Store(tmp_path, write=False) as store:
        assert store.trials()[0] == TRIAL
