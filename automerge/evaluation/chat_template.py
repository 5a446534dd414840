"""Render chat templates, which are programs of strangers, under limits."""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from automerge.errors import PreflightError

SECONDS = 5.0
"""Longest time for one conversation."""
CHARACTERS = 10**7
"""Longest prompt that a template may make of one."""


class _TooLong(BaseException):
    """Passes by the handlers of whoever renders."""


def limited(render: Callable[..., str], seconds: float = SECONDS) -> Callable[..., str]:
    """The same function under a limit of time and length; without one of time off the main thread.

    It raises PreflightError where a template takes too long, or makes too long a prompt.
    """

    @functools.wraps(render)
    def within(*args: Any, **kwargs: Any) -> str:
        try:
            with alarm(seconds):
                text = render(*args, **kwargs)
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
