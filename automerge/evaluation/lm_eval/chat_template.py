"""Render chat templates, which are programs of strangers, under limits."""

from __future__ import annotations

import functools
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from automerge.errors import PreflightError

SECONDS = 5.0
"""Longest time for one conversation."""
CHARACTERS = 10**7
"""Longest prompt that a template may make of one."""
MEMORY = 512 * 2**20
"""Most memory that a template may take for one; a prompt of `CHARACTERS` takes a tenth of it."""
PAGES = Path("/proc/self/statm")


class _TooLong(BaseException):
    """Passes by the handlers of whoever renders."""


def limited(render: Callable[..., str], seconds: float = SECONDS) -> Callable[..., str]:
    """The same function under limits of time, memory and length.

    There is none of time off the main thread, and none of memory where the system does not say how
    much a process has. It raises PreflightError where a template takes too long or too much, or
    makes too long a prompt.
    """

    @functools.wraps(render)
    def within(*args: Any, **kwargs: Any) -> str:
        try:
            with alarm(seconds), memory_limit():
                text = render(*args, **kwargs)
        except (MemoryError, OverflowError):
            raise PreflightError(
                f"the chat template took more than {MEMORY // 2**20} MiB of memory for one "
                "conversation; use another chat_template, or apply_chat_template: false"
            ) from None
        except _TooLong:
            raise PreflightError(
                f"the chat template took more than {seconds:g} s for one conversation; use another "
                "chat_template, or apply_chat_template: false"
            ) from None
        if len(text) > CHARACTERS:
            raise PreflightError(
                f"the chat template made a prompt of {len(text)} characters of one conversation, "
                f"more than {CHARACTERS}; use another, or apply_chat_template: false"
            )
        return text

    return within


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Interrupt what runs inside after some time."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def memory_limit() -> Iterator[None]:
    """Refuse this process more than `MEMORY` beside what it has, while something runs inside."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    try:
        held = int(PAGES.read_text().split()[0]) * resource.getpagesize()
    except (OSError, ValueError):
        yield
        return
    most = [limit for limit in (soft, hard, held + MEMORY) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(most), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
