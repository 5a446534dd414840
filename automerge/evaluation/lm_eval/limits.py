"""Limits on time and memory for code that strangers wrote and this process has to run."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


class OutOfTime(BaseException):
    """The time is over; a BaseException, so that handlers of the code that runs let it pass."""


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise OutOfTime after some time in the code that runs inside.

    On the main thread a signal does this, even within regular expressions; on others a timer does,
    between two steps of the interpreter.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        with _timer(seconds):
            yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left, interval)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _timer(seconds: float) -> Iterator[None]:
    own = ctypes.c_ulong(threading.get_ident())
    interrupt = ctypes.pythonapi.PyThreadState_SetAsyncExc
    lock, done = threading.Lock(), threading.Event()

    def ring() -> None:
        with lock:
            if not done.is_set():
                interrupt(own, ctypes.py_object(OutOfTime))

    timer = threading.Timer(seconds, ring)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            done.set()
        timer.cancel()


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
