"""Say in a sentence why the process ends when a memory-mapped file is truncated."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from automerge.errors import ModelsChanged

MESSAGE = (
    "automerge: a model's file can no longer be read: it was truncated or its disk failed; "
    "put it back and run the same command to resume\n"
)
_handlers: list[object] = []
"""Keeps the objects that C calls alive."""


def explain_bus_errors() -> None:
    """Make a missing mapped page end the process with `ModelsChanged`'s exit code and a sentence.

    A handler in Python would run only after the faulting instruction, which never completes; this
    one is called by the system itself, and can do nothing but end the process.
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
