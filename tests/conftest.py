"""Garbage is not looked for while tests are imported, nor afterwards in what is there to stay.

Libraries and tests are most of a million objects, of which none is garbage.
"""

from __future__ import annotations

import gc


def pytest_configure() -> None:
    gc.disable()


def pytest_collection_finish() -> None:
    gc.enable()
    gc.freeze()
