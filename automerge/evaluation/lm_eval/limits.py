"""Limits on time and memory for code that strangers wrote and this process has to run."""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


class OutOfTime(BaseException):
    """The time is over; a BaseException, so that handlers of the code that runs let it pass."""


PATIENCE = 20
"""How many times longer than its limit code may take by the clock on the wall, where other programs
have the processors or it waits."""
SOON_S = 0.01
"""The least time until the time spent is looked at again."""


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the code that runs inside once it has had so much of a processor's time.

    It has longer by the clock where other programs have the processors, but not without end. On the
    main thread a signal does this, even within regular expressions; on others a timer does, between
    two steps of the interpreter.
    """
    left = _left(seconds)
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        with _timer(seconds, left):
            yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        if (more := left()) > 0:
            signal.setitimer(signal.ITIMER_REAL, max(more, SOON_S))
        else:
            raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    until, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, until, interval)
        signal.signal(signal.SIGALRM, before)


def _left(seconds: float) -> Callable[[], float]:
    """Return what says, on any thread, how many seconds of a limit this thread has left."""
    find = getattr(time, "pthread_getcpuclockid", None)
    own = None if find is None else find(threading.get_ident())

    def spent() -> float:
        return time.monotonic() if own is None else time.clock_gettime(own)

    began, ends = spent(), time.monotonic() + PATIENCE * seconds
    return lambda: min(seconds - (spent() - began), ends - time.monotonic())


@contextmanager
def _timer(seconds: float, left: Callable[[], float]) -> Iterator[None]:
    own = ctypes.c_ulong(threading.get_ident())
    interrupt = ctypes.pythonapi.PyThreadState_SetAsyncExc
    over = threading.Event()
    lock = threading.Lock()

    def watch() -> None:
        wait = seconds
        while not over.wait(wait):
            with lock:
                if over.is_set():
                    return
                if (more := left()) <= 0:
                    interrupt(own, ctypes.py_object(OutOfTime))
                    return
                wait = max(more, SOON_S)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        with lock:
            over.set()


@contextmanager
def bounded_memory(n_bytes: int) -> Iterator[None]:
    """Let the process have at most this many more bytes than it holds, if the system can say.

    Code that asks for more gets MemoryError. The limit is on the address space of the process.
    """
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        before = resource.getrlimit(resource.RLIMIT_AS)
        limit = pages * resource.getpagesize() + n_bytes
    except (ImportError, OSError, ValueError):
        yield
        return
    unlimited = resource.RLIM_INFINITY
    if any(other not in (unlimited, -1) and other <= limit for other in before):
        yield
        return
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
