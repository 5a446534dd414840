"""Between the caller and a program: start its process and its judge's, and end both in time.

Standard input holds the program and its time limit as JSON; another descriptor, the first argument,
holds the tests, which only the judge reads: they are never in the memory that the program's process
starts with. Standard output gets one line: the verdict, UNSUPPORTED with a reason, or LATE.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable

from automerge.evaluation.lm_eval.cage import jail, judge, prisoner
from automerge.evaluation.lm_eval.cage.wire import Pipe

UNSUPPORTED, LATE = "unsupported", "late"
COMING_UP_S = 15.0
"""How long the two processes may take until they are locked in."""


def main() -> None:
    """Judge one program."""
    program_from, tests_from = 0, int(sys.argv[1])
    try:
        answer = keep(program_from, tests_from)
    except (jail.Unsupported, AttributeError, OSError, ValueError) as error:
        answer = f"{UNSUPPORTED}: {error}"
    os.write(1, answer.encode(errors="replace"))


def keep(program_from: int, tests_from: int) -> str:
    """Start both processes, let them begin together, and wait for the verdict or the time limit."""
    library = jail.Library()
    who = jail.other_user(2 * (os.getpid() % 2**22))
    namespaces = jail.gain_namespaces(library, who)
    to_judge, to_prisoner, said, told_judge, told_prisoner = (os.pipe() for _ in range(5))
    ready_judge, ready_prisoner = os.pipe(), os.pipe()

    def judging() -> None:
        tests = json.loads(_all(tests_from))
        seconds = tests["seconds"]
        keep_open(to_judge[0], to_prisoner[1], said[1], ready_judge[1], told_judge[0])
        next_user = None if who is None else who + (who != jail.NOBODY)
        lock(seconds, next_user, False, ready_judge[1], told_judge[0])
        found = judge.verdict(tests["tests"], Pipe(to_judge[0], to_prisoner[1]))
        os.write(said[1], found.encode(errors="replace")[:1000])

    def lock(seconds: float, user: int | None, writes: bool, ready: int, told: int) -> None:
        try:
            jail.lock(library, seconds, namespaces, user, writes)
        except (jail.Unsupported, AttributeError, OSError, ValueError) as error:
            os.write(ready, str(error).encode() or b"?")
            os._exit(1)
        os.write(ready, b"\0")
        if os.read(told, 1) != b"\0":
            os._exit(1)
        os.close(ready)
        os.close(told)

    children = [start(judging)]
    os.close(tests_from)
    asked = json.loads(_all(program_from))
    seconds = asked["seconds"]

    def imprisoned() -> None:
        keep_open(to_prisoner[0], to_judge[1], ready_prisoner[1], told_prisoner[0])
        lock(seconds, who, True, ready_prisoner[1], told_prisoner[0])
        prisoner.run(asked["program"], Pipe(to_prisoner[0], to_judge[1]))

    try:
        if namespaces:
            library.can("unshare", jail.NEW_PIDS)
        children.append(start(imprisoned))
        for end in (*to_judge, *to_prisoner, said[1], ready_judge[1], ready_prisoner[1]):
            os.close(end)
        for ready in (ready_judge[0], ready_prisoner[0]):
            word = within(ready, COMING_UP_S)
            if word is None:
                return LATE
            if word != b"\0":
                raise jail.Unsupported(word.decode(errors="replace") or "a process ended")
        for told in (told_judge[1], told_prisoner[1]):
            os.write(told, b"\0")
        verdict = within(said[0], seconds)
        return (verdict or b"").decode(errors="replace") or judge.FAILED
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)


def start(work: Callable[[], None]) -> int:
    """Fork a process that does some work and ends."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(1)
    return child


def keep_open(*needed: int) -> None:
    """Close every descriptor except these; standard input, output and error lead nowhere."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    lowest = 3
    for end in (*sorted(needed), 2**16):
        os.closerange(lowest, end)
        lowest = end + 1


def within(descriptor: int, seconds: float) -> bytes | None:
    """Return what can be read there within some seconds; None if nothing can."""
    until = time.monotonic() + seconds
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while True:
        left = until - time.monotonic()
        if left <= 0:
            return None
        if poll.poll(left * 1000):
            return os.read(descriptor, 4096)


def _all(descriptor: int) -> bytes:
    parts = []
    while part := os.read(descriptor, 2**20):
        parts.append(part)
    return b"".join(parts)


if __name__ == "__main__":
    main()
