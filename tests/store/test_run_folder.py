"""Who may write in a run folder, and what the disk is trusted with."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from automerge.errors import StateError
from automerge.store.run_folder import LOCK, OWNER, RunLock, is_running, journal_mode, owner
from automerge.store.store import FILE, Store
from tests.studies import toy_store

HOLDER = """
import sys, time
from pathlib import Path
from automerge.store.store import Store
store = Store(Path(sys.argv[1]), write=True)
print("mine", flush=True)
time.sleep(600)
"""


def hold(run: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "mine\n"
    return child


def test_the_lock_of_a_killed_writer_is_free_at_once(tmp_path: Path) -> None:
    child = hold(tmp_path)
    assert is_running(tmp_path)
    with pytest.raises(
        StateError, match=f"in use by process {child.pid} on {socket.gethostname()}"
    ):
        Store(tmp_path, write=True)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert child.stdout is not None
    child.stdout.close()
    assert not is_running(tmp_path)
    assert owner(tmp_path)["pid"] == child.pid  # what it left says nothing any more
    began = time.monotonic()
    with Store(tmp_path, write=True):
        assert owner(tmp_path)["pid"] == os.getpid()
    assert time.monotonic() - began < 1
    assert not (tmp_path / OWNER).exists()


def test_a_reader_that_asks_who_runs_does_not_keep_a_writer_out(tmp_path: Path) -> None:
    with Store(tmp_path, write=True):
        pass
    code = (
        "import sys, time; from pathlib import Path\n"
        "from automerge.store.run_folder import is_running\n"
        "end = time.monotonic() + 3\n"
        "while time.monotonic() < end: is_running(Path(sys.argv[1]))"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) as reader:
        while reader.poll() is None:
            with Store(tmp_path, write=True):
                pass


@pytest.mark.parametrize(
    "left",
    [
        "",
        "not JSON",
        "[]",
        json.dumps({"pid": 1, "host": "elsewhere", "since": "2020"}),
        json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "boot": "another"}),
    ],
    ids=["empty", "not JSON", "a list", "another host", "another boot"],
)
def test_what_a_stranger_left_as_owner_neither_locks_nor_breaks(tmp_path: Path, left: str) -> None:
    (tmp_path / OWNER).write_text(left)
    (tmp_path / LOCK).touch()
    assert not is_running(tmp_path)
    with Store(tmp_path, write=True):
        assert is_running(tmp_path)


def test_a_lock_kept_over_a_restart_says_which_file_to_delete(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    before = json.loads((tmp_path / OWNER).read_text())
    (tmp_path / OWNER).write_text(json.dumps({**before, "boot": "an earlier one"}))
    with pytest.raises(StateError, match=f"delete {LOCK}"):
        RunLock(tmp_path)
    lock.release()


MOUNTS = """\
/dev/vda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
tmpfs /home/a/fast\\040disk tmpfs rw 0 0
lustre /scratch/m\\303\\274nchen lustre rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "mode"),
    [
        ("/var/run1", "WAL"),
        ("/home/a/run", "DELETE"),
        ("/homestead/run", "WAL"),
        ("/home/a/fast disk/run", "WAL"),
        ("/scratch/münchen/run", "DELETE"),
    ],
)
def test_the_log_is_used_on_disks_of_this_machine_only(
    tmp_path: Path, folder: str, mode: str
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    assert journal_mode(Path(folder), mounts) == mode


def test_without_a_table_of_mounts_the_rollback_journal_is_used(tmp_path: Path) -> None:
    assert journal_mode(tmp_path, tmp_path / "none") == "DELETE"


def test_a_study_at_rest_is_one_file(tmp_path: Path) -> None:
    with toy_store(tmp_path):
        pass
    assert {p.name for p in tmp_path.iterdir()} - {LOCK} == {FILE}


def test_a_reader_at_work_does_not_hold_up_the_writer_s_end(tmp_path: Path) -> None:
    with toy_store(tmp_path) as store:
        record = store.study
        reader = Store(tmp_path, write=False)
        assert reader.begun
        began = time.monotonic()
    assert time.monotonic() - began < 2
    assert reader.study == record
    reader.close()
    with Store(tmp_path, write=True) as store:
        assert store.study == record
