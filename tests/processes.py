"""Processes of this machine, as /proc shows them."""

from __future__ import annotations

import time
from pathlib import Path

DEADLINE_S = 60.0


def is_alive(pid: int) -> bool:
    """Return whether a process runs, or is stopped; not if it only waits to be reaped."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def ended(pid: int) -> bool:
    """Wait until a process has ended; return whether it has."""
    until = time.monotonic() + DEADLINE_S
    while is_alive(pid) and time.monotonic() < until:
        time.sleep(0.05)
    return not is_alive(pid)


def descendants(pid: int) -> list[int]:
    """Return the children of a process, theirs, and so on."""
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (thread / "children").read_text().split()):
            found += [child, *descendants(child)]
    return found
