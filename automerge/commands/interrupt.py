"""Ctrl-C and schedulers' signals: the first lets running work finish, the second stops."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

URGENT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals whose second arrival means "immediately"."""
WARNINGS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""Signals that schedulers send ahead of the end, some repeatedly: they only ever ask."""
SIGNALS = (*URGENT, *WARNINGS)


class Stopped(KeyboardInterrupt):
    """A signal that stops immediately; `exit_code` is 128 + its number, as in shells."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


class Interrupt:
    """Handles signals for as long as the `with` block lasts.

    The second urgent signal raises Stopped; the third ends the process immediately, as
    `kill -9` would, which the store survives. A signal that was ignored when the process began,
    as SIGHUP is under `nohup`, stays ignored. Outside the main thread, where Python allows no
    handlers, nothing is installed.
    """

    def __init__(self, on_request: Callable[[], None]) -> None:
        self._on_request = on_request
        self._before: dict[signal.Signals, Any] = {}
        self._signal: int | None = None
        self._stopping = False

    @property
    def requested(self) -> bool:
        return self._signal is not None

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as in shells."""
        return 128 + (self._signal or 0)

    def install(self) -> None:
        """Install the handlers; call again after a library (Ray) has installed its own."""
        if threading.current_thread() is threading.main_thread():
            _take(self._handle, self._before)

    def __enter__(self) -> Interrupt:
        self.install()
        return self

    def __exit__(self, *exc: object) -> None:
        _give_back(self._before)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._signal is None:
            self._signal = number
            self._on_request()
        elif number in WARNINGS:
            return
        elif self._stopping:
            os._exit(128 + number)
        else:
            self._stopping = True
            raise Stopped(number)


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Turn every signal that asks to stop into Stopped, where there is nothing to finish."""

    def stop(number: int, _: FrameType | None) -> None:
        raise Stopped(number)

    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        _take(stop, before)
    try:
        yield
    finally:
        _give_back(before)


def _give_back(before: Mapping[signal.Signals, Any]) -> None:
    for number, handler in before.items():
        if handler is not None:  # None is C's own
            signal.signal(number, handler)


def _take(
    handler: Callable[[int, FrameType | None], None], before: dict[signal.Signals, Any]
) -> None:
    """Install a handler for all signals that are not ignored; remember the first ones."""
    for number in SIGNALS:
        known = before.setdefault(number, signal.getsignal(number))
        if known is not signal.SIG_IGN:
            signal.signal(number, handler)
