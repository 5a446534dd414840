"""How many processors this process may keep busy, which is not how many the machine has."""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path

THREADS = "OMP_NUM_THREADS"
"""What OpenMP, MKL, OpenBLAS and PyTorch read when they are loaded."""


def usable_cpus(cgroup: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc")) -> int:
    """The processors of this process's affinity, or the whole ones of its control group's quota
    where that is less; at least 1.

    More threads than that wait, busily, for those that are not run.
    """
    return max(1, min(affine_cpus(), int(quota(cgroup, proc))))


def affine_cpus() -> int:
    """How many processors the system runs this process on."""
    if hasattr(os, "process_cpu_count"):  # from Python 3.13 on
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def quota(cgroup: Path, proc: Path) -> float:
    """Processors' time that this process's control groups grant it; the machine's without any.

    The least of its group and those above it, of version 2 and of version 1.
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
    """The folders of this process's control groups that may limit its time, and those above.

    In a container the names may be the host's; the folder mounted there is then its own.
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
    """Have PyTorch compute on the calling thread alone.

    Sums that are shared out among threads, and the matrix products and decompositions of LAPACK,
    are rounded otherwise by each number of threads; by one they are the same on every number.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def limit_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Have libraries that are loaded from now on take no more threads than there is time for.

    They see a process's affinity themselves, its quota they do not. A number that is set already
    is the user's.
    """
    usable = usable_cpus()
    if THREADS not in environment and usable < affine_cpus():
        environment[THREADS] = str(usable)
