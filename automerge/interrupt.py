"""Ctrl-C and SIGTERM: the first asks to finish what runs, the second stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """Whether somebody asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def requested(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        return 128 + (self.signal or 0)


@contextmanager
def watch_signals(on_request: Callable[[], None]) -> Iterator[Interrupt]:
    """Install handlers for as long as the block lasts; the second signal raises KeyboardInterrupt.

    Enter it after `ray.init`, which installs handlers of its own. Outside the main thread, where
    Python allows no handlers, it does nothing.
    """
    interrupt = Interrupt()

    def handle(number: int, _: FrameType | None) -> None:
        if interrupt.requested:
            raise KeyboardInterrupt
        interrupt.signal = number
        on_request()

    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in signals}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
