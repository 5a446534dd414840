"""A file that becomes shorter while it is mapped ends the process, but with a sentence."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from automerge.errors import ModelsChanged

MESSAGE = (
    "automerge: a model's file could not be read any more: it was cut short or its disk failed; "
    "put it back and run the same command to resume\n"
)
_handlers: list[object] = []
"""What C calls must stay alive."""


def explain_bus_errors() -> None:
    """End the process with `ModelsChanged`'s exit code and a sentence where a mapped page is gone.

    Python's own handlers run after the faulting instruction, which then never ends; this one is
    called by the system in its place. Nothing but the end can follow.
    """
    if _handlers:
        return

    def end(_: int) -> None:
        show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""
        os.write(2, (show_cursor + MESSAGE).encode())
        os._exit(ModelsChanged.exit_code)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(end)
    install = ctypes.CDLL(None).signal
    install.argtypes = [ctypes.c_int, ctypes.CFUNCTYPE(None, ctypes.c_int)]
    install.restype = ctypes.c_void_p
    _handlers.append(handler)
    install(signal.SIGBUS, handler)
