"""Ask whether a program passes its tests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path

import automerge
from automerge.errors import PreflightError
from automerge.evaluation.guards import MetricError
from automerge.evaluation.lm_eval.cage import judge, keeper

STARTING_S = 20.0
"""How long the processes may take to start and end, in addition to the program's own time."""
TRIED_S = 5.0
"""Time limit of the program that a cage is tried with."""
TRIES = 3
"""How often processes that do not start in time are started again."""
BEGIN = (
    "import sys; sys.path += {paths!r}; "
    "from automerge.evaluation.lm_eval.cage.keeper import main; sys.path.remove({home!r}); main()"
)


def passes(program: str, tests: str, seconds: float) -> bool:
    """Return whether tests run to their end against a program, in a cage, within some seconds.

    Raises:
        PreflightError: the system cannot cage a program.
        MetricError: the tests cannot be judged.
    """
    for _ in range(TRIES):
        said = _judged(program, tests, seconds)
        kind, _, reason = said.partition(": ")
        if kind in (judge.PASSED, judge.FAILED):
            return kind == judge.PASSED
        if kind == keeper.UNSUPPORTED:
            raise PreflightError(
                f"model-written code cannot be locked in here: {reason}; use a Linux machine with "
                "Landlock and seccomp, or leave the task out"
            )
        if kind == judge.FOREIGN:
            raise MetricError(
                f"tests of a program cannot be judged: {reason}, which automerge cannot give to "
                "the process that the program runs in; leave the task out"
            )
    raise MetricError(
        f"a process for model-written code did not come up within {keeper.COMING_UP_S:g} s, "
        f"{TRIES} times; start again when the machine is less busy"
    )


def _judged(program: str, tests: str, seconds: float) -> str:
    """Return what the keeper says about a program."""
    if not hasattr(os, "memfd_create") or not hasattr(os, "fork"):
        return f"{keeper.UNSUPPORTED}: this is not Linux"
    packages = [path for path in {sysconfig.get_path(n) for n in ("purelib", "platlib")} if path]
    home = str(Path(automerge.__file__).parent.parent)
    begin = BEGIN.format(paths=[*sorted(packages), home], home=home)
    given = _holding({"program": program, "seconds": seconds})
    tested = _holding({"tests": tests, "seconds": seconds})
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", begin, str(tested)],
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
            cwd="/",
            pass_fds=(tested,),
            start_new_session=True,
        )
    finally:
        os.close(given)
        os.close(tested)
    try:
        said, _ = process.communicate(timeout=seconds + STARTING_S)
    except subprocess.TimeoutExpired:
        return keeper.LATE
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout:
            process.stdout.close()
    return said.decode(errors="replace")


def _holding(asked: dict[str, str | float]) -> int:
    """Return a file in memory with something as JSON, to be read from its beginning."""
    held = os.memfd_create("automerge")
    view = memoryview(json.dumps(asked).encode())
    while view:
        view = view[os.write(held, view) :]
    os.lseek(held, 0, os.SEEK_SET)
    return held


@cache
def caging_fault() -> str | None:
    """Say why programs cannot be locked in on this machine; return None if they can."""
    try:
        passes("def f(): return 1", "assert f() == 1", TRIED_S)
    except (PreflightError, MetricError) as error:
        return str(error)
    return None
