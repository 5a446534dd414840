"""Threads follow what a process may use, not what the machine has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from automerge.machine.processors import THREADS, affine_cpus, limit_threads, quota, usable_cpus
from automerge.worker import worker
from automerge.worker.worker import SMALL_MODEL, threads_for

ALL = float(os.cpu_count() or 1)
NEW, OLD = "0::/box/inner\n", "5:cpu,cpuacct:/box/inner\n4:memory:/box\n0::/\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, "ascii")
    return root


@pytest.mark.parametrize(
    ("groups", "files", "granted"),
    [
        (NEW, {"box/inner/cpu.max": "50000 100000\n"}, 0.5),
        (NEW, {"box/inner/cpu.max": "max 100000\n"}, ALL),
        (NEW, {"box/cpu.max": "25000 100000\n", "box/inner/cpu.max": "90000 100000\n"}, 0.25),
        # In a container the name is the host's, and the folder is its own.
        (NEW, {"cpu.max": "75000 100000\n"}, 0.75),
        ("", {"cpu.max": "75000 100000\n"}, 0.75),
        (NEW, {"unified/box/cpu.max": "75000 100000\n"}, 0.75),
        (NEW, {"box/cpu.max": "not a number\n", "cpu.max": "0 0\n"}, ALL),
        (NEW, {}, ALL),
        (
            OLD,
            {
                "cpu,cpuacct/box/inner/cpu.cfs_quota_us": "50000\n",
                "cpu,cpuacct/box/inner/cpu.cfs_period_us": "200000\n",
            },
            0.25,
        ),
        (OLD, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, ALL),
        (OLD, {"cpu/cpu.cfs_quota_us": "30000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.3),
        (OLD, {"memory/cpu.cfs_quota_us": "1\n", "memory/cpu.cfs_period_us": "100\n"}, ALL),
    ],
)
def test_a_quota_is_the_least_of_all_groups_above(tmp_path, groups, files, granted):
    proc = write(tmp_path / "proc", {"self/cgroup": groups})
    assert quota(write(tmp_path / "cgroup", files), proc) == granted


def test_a_share_of_a_processor_is_one_thread_and_no_quota_adds_any(tmp_path):
    proc = write(tmp_path / "proc", {"self/cgroup": NEW})
    for text in ("1000 100000", "100000 100000"):
        assert usable_cpus(write(tmp_path / "cgroup", {"cpu.max": text}), proc) == 1
    endless = write(tmp_path / "cgroup", {"cpu.max": "99900000 100000"})
    assert usable_cpus(endless, proc) == affine_cpus()
    assert usable_cpus(tmp_path / "none", tmp_path / "none") == affine_cpus()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_affinity_limits_a_process_and_the_threads_of_torch():
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "from automerge.machine.processors import usable_cpus\n"
        "from automerge.worker.worker import threads_for\n"
        "import torch; torch.set_num_threads(8)\n"
        "print(usable_cpus(), threads_for(None, 'cpu', 10**9))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["1", "1"]


def test_a_worker_takes_the_threads_it_is_given_or_can_use(monkeypatch):
    import torch

    monkeypatch.setattr(worker, "usable_cpus", lambda: 6)
    monkeypatch.setattr(worker, "gpus_here", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert threads_for(3, "cpu", SMALL_MODEL) == 3
    assert threads_for(None, "cpu", SMALL_MODEL - 1) == 1
    assert threads_for(None, "cpu", SMALL_MODEL) == 6
    assert threads_for(None, "cuda", SMALL_MODEL) == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert threads_for(None, "cpu", SMALL_MODEL) == 2


def test_libraries_are_told_of_a_quota_unless_the_user_said_how_many_threads(monkeypatch):
    monkeypatch.setattr("automerge.machine.processors.affine_cpus", lambda: 8)
    for usable, given, left in (
        (2, {}, {THREADS: "2"}),
        (8, {}, {}),
        (2, {THREADS: "5"}, {THREADS: "5"}),
    ):
        monkeypatch.setattr("automerge.machine.processors.usable_cpus", lambda n=usable: n)
        limit_threads(given)
        assert given == left


LIBRARY = """
import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
from pathlib import Path
import automerge, torch
from automerge.worker.worker import MergeWorker, WorkerSpec

nowhere = WorkerSpec({"base": Path("/nowhere")}, {"base": ""}, "base", None, Path(), "", "cpu")
for call in (lambda: automerge.search("nowhere.yaml"), lambda: MergeWorker(nowhere)):
    for threads in (8, 1):
        torch.set_num_threads(threads)
        try: call()
        except automerge.AutomergeError: print(torch.get_num_threads())
"""


@pytest.mark.sample(1)
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
@pytest.mark.parametrize(("given", "left"), [(None, "1111"), ("8", "8181")])
def test_library_and_workers_fit_their_threads_and_raise_none(given, left):
    environment = {name: text for name, text in os.environ.items() if name != THREADS}
    environment |= {} if given is None else {THREADS: given}
    ended = subprocess.run(
        [sys.executable, "-c", LIBRARY], capture_output=True, text=True, env=environment
    )
    assert "".join(ended.stdout.split()) == left, ended.stderr
