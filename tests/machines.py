"""Run tests as other machines would: other vector instructions, BLAS kernels, threads and quotas.

    python -m tests.machines                    # what computes, on every machine imitated here
    python -m tests.machines tests/methods -x   # pytest's own arguments

A processor can be told to leave instructions out, never to have more: what it lacks is skipped, by
name. The exit code is 1 where any run failed.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PARTS = (
    "tests/methods",
    "tests/merging",
    "tests/estimation",
    "tests/samplers",
    "tests/evaluation",
    "tests/checkpoints",
    "tests/inspection",
    "tests/test_pareto.py",
    "tests/space/test_space.py",
)
"""What computes."""
FLAGS = {"avx2": "avx2", "avx512": "avx512f"}
"""Instructions by the names they have in /proc/cpuinfo."""


@dataclass(frozen=True)
class Machine:
    """Another machine, as far as this one can be like it.

    `needs` are instructions it must have; `cores` how many it lets a process run on; `quota` is
    that share of one core's time, where control groups can be made.
    """

    name: str
    environment: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    cores: int | None = None
    quota: float | None = None


MACHINES = (
    Machine("without vector instructions", {"ATEN_CPU_CAPABILITY": "default"}),
    Machine("AVX2", {"ATEN_CPU_CAPABILITY": "avx2"}, ("avx2",)),
    Machine("AVX-512", {"ATEN_CPU_CAPABILITY": "avx512"}, ("avx512",)),
    Machine("MKL of any x86", {"MKL_CBWR": "COMPATIBLE"}),
    Machine("OpenBLAS for Nehalem", {"OPENBLAS_CORETYPE": "Nehalem"}),
    Machine("OpenBLAS for Haswell", {"OPENBLAS_CORETYPE": "Haswell"}, ("avx2",)),
    Machine("OpenBLAS for Zen", {"OPENBLAS_CORETYPE": "Zen"}, ("avx2",)),
    Machine("OpenBLAS for SkylakeX", {"OPENBLAS_CORETYPE": "SkylakeX"}, ("avx512",)),
    Machine("two threads", {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}),
    Machine("one core of several", {"OMP_NUM_THREADS": ""}, cores=1),
    Machine("half a core's time", {"OMP_NUM_THREADS": ""}, quota=0.5),
)


def lacks(machine: Machine, cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """Why a machine cannot be imitated here; None where it can."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    text = cpuinfo.read_text("ascii", "replace") if cpuinfo.exists() else ""
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
    missing = [need for need in machine.needs if FLAGS[need] not in flags]
    if machine.needs and not x86:
        return "not an x86 processor"
    if missing:
        return f"the processor has no {', '.join(missing)}"
    if machine.quota is not None and quota_group() is None:
        return "no control group with a quota can be made (root, cgroup v2 or v1)"
    return None


def quota_group(root: Path = Path("/sys/fs/cgroup")) -> Path | None:
    """The folder in which control groups with a quota can be made; None where there is none."""
    for folder, limit in ((root, "cgroup.controllers"), (root / "cpu", "cpu.cfs_quota_us")):
        known = folder / limit
        if not known.exists() or not os.access(folder, os.W_OK):
            continue
        if limit == "cpu.cfs_quota_us" or "cpu" in known.read_text("ascii").split():
            return folder
    return None


@contextmanager
def limited(machine: Machine) -> Iterator[Path | None]:
    """A control group that processes can be put into; None without a quota."""
    folder = quota_group() if machine.quota is not None else None
    if folder is None or machine.quota is None:
        yield None
        return
    group = folder / f"automerge-tests-{os.getpid()}"
    period, share = 100_000, int(100_000 * machine.quota)
    if (folder / "cgroup.subtree_control").exists():
        (folder / "cgroup.subtree_control").write_text("+cpu", "ascii")
    group.mkdir()
    try:
        if (group / "cpu.max").exists():
            (group / "cpu.max").write_text(f"{share} {period}", "ascii")
        else:
            (group / "cpu.cfs_period_us").write_text(str(period), "ascii")
            (group / "cpu.cfs_quota_us").write_text(str(share), "ascii")
        yield group
    finally:
        group.rmdir()


def run(machine: Machine, arguments: Sequence[str]) -> int:
    """Run pytest there; its exit code."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **machine.environment}
    environment = {name: value for name, value in environment.items() if value}

    with limited(machine) as group:

        def enter() -> None:
            if machine.cores is not None:
                cores = sorted(os.sched_getaffinity(0))[: machine.cores]
                os.sched_setaffinity(0, cores)
            if group is not None:
                (group / "cgroup.procs").write_text(str(os.getpid()), "ascii")

        command = [sys.executable, "-m", "pytest", *arguments]
        return subprocess.run(command, env=environment, preexec_fn=enter, check=False).returncode


def main(arguments: Sequence[str]) -> int:
    """Run everywhere, and say where what failed."""
    given = list(arguments) or ["-m", "not slow and not gpu", *PARTS]
    outcomes: dict[str, str] = {}
    for machine in MACHINES:
        why = lacks(machine)
        if why is None:
            print(f"\n== {machine.name}: {dict(machine.environment)}", flush=True)
            code = run(machine, given)
            outcomes[machine.name] = "passed" if code == 0 else f"FAILED (exit code {code})"
        else:
            outcomes[machine.name] = f"skipped: {why}"
    print()
    for name, outcome in outcomes.items():
        print(f"{name:28} {outcome}")
    return int(any(outcome.startswith("FAILED") for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
