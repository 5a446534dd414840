"""Ctrl-C and SIGTERM: the first asks to finish what runs, the second stops, the third ends it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupt:
    """Handles signals for as long as the `with` block lasts.

    The second signal raises KeyboardInterrupt; the third ends the process where it stands, as
    `kill -9` would: the store is made for that. Outside the main thread, where Python allows no
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
        """128 + the signal's number, as shells have it."""
        return 128 + (self._signal or 0)

    def install(self) -> None:
        """Take the signals; again after a library (Ray) has put its own handlers in place."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                previous = signal.signal(number, self._handle)
                self._before.setdefault(number, previous)

    def __enter__(self) -> Interrupt:
        self.install()
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._stopping:
            os._exit(128 + number)
        if self.requested:
            self._stopping = True
            raise KeyboardInterrupt
        self._signal = number
        self._on_request()
