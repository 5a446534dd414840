"""How many processors this process may keep busy, which may be fewer than the machine has."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path

THREADS = "OMP_NUM_THREADS"
"""The variable that OpenMP, MKL, OpenBLAS and PyTorch read when they are loaded."""


def usable_cpus(cgroup: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc")) -> int:
    """Return how many processors this process may use, by its affinity and its cgroups' quota.

    A quota is rounded down; the result is at least 1. With more threads than that, running threads
    spin while they wait for those that are not scheduled.
    """
    return max(1, min(affine_cpus(), int(quota(cgroup, proc))))


def affine_cpus() -> int:
    """Return how many processors the system may run this process on."""
    if hasattr(os, "process_cpu_count"):  # from Python 3.13 on
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def quota(cgroup: Path, proc: Path) -> float:
    """Return the number of processors whose time this process's control groups grant it.

    This is the smallest quota of its group and those above it, in cgroup versions 2 and 1; without
    any, the number of the machine's processors.
    """
    granted = [float(os.cpu_count() or 1)]
    for folder in groups(cgroup, proc):
        for file in ("cpu.max", "cpu.cfs_quota_us"):
            try:
                limit = (folder / file).read_text("ascii").split()
                if file == "cpu.cfs_quota_us":
                    limit += (folder / "cpu.cfs_period_us").read_text("ascii").split()
                microseconds, period = map(float, limit)
            except (OSError, ValueError):  # no such file, or "max"
                continue
            if microseconds > 0 and period > 0:
                granted.append(microseconds / period)
    return min(granted)


def groups(cgroup: Path, proc: Path) -> Iterator[Path]:
    """Yield the folders of the control groups that may limit this process's time, and parents.

    In a container, the names may be those on the host; the root mounted there is then its own.
    """
    try:
        lines = (proc / "self" / "cgroup").read_text("utf-8").splitlines()
    except (OSError, ValueError):
        lines = []
    found = {cgroup: "/", cgroup / "cpu": "/"}
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            found |= {cgroup: path, cgroup / "unified": path}
        elif "cpu" in controllers.split(","):
            found |= {cgroup / controllers: path, cgroup / "cpu": path}
    for root, path in found.items():
        inside = root / path.lstrip("/")
        while inside != root and inside.is_relative_to(root):
            yield inside
            inside = inside.parent
        yield root


@contextmanager
def one_thread() -> Iterator[None]:
    """Make PyTorch compute on the calling thread alone.

    The rounding of sums that are divided among threads, and of LAPACK's matrix products and
    decompositions, depends on the number of threads; on one thread it is always the same.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def limit_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Keep libraries loaded from now on from using more threads than there are usable processors.

    They respect a process's affinity by themselves, but not its quota. A number that is already
    set is the user's choice and stays.
    """
    usable = usable_cpus()
    if THREADS not in environment and usable < affine_cpus():
        environment[THREADS] = str(usable)


def fit_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Do what `limit_threads` does, and lower PyTorch's number of threads if it is loaded already.

    A number in `OMP_NUM_THREADS` stays, and so does one that is lower than what is usable: a team
    of more threads than processors spins while it waits for those that are not scheduled.
    """
    chosen = THREADS in environment
    limit_threads(environment)
    torch = sys.modules.get("torch")
    if torch is not None and not chosen and torch.get_num_threads() > (usable := usable_cpus()):
        torch.set_num_threads(usable)
