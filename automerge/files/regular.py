"""Read regular files of limited size, without blocking on pipes or reading devices for ever."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO


class Unfit(ValueError):
    """A path is not a regular file, or is too large; the message says which."""


def regular_size(path: Path, limit: int) -> int:
    """Return a regular file's size in bytes.

    Raises:
        Unfit: it is a folder, a pipe or a device, or has more than `limit` bytes.
        OSError: it does not exist or cannot be examined.
    """
    found = path.stat()
    _demand_regular(path, found)
    if found.st_size > limit:
        raise Unfit(f"{path}: {found.st_size:,} bytes; at most {limit:,} are read")
    return found.st_size


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, without blocking on anything else, such as a pipe.

    Raises:
        Unfit: it is a folder, a pipe or a device.
        OSError: it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _demand_regular(path, os.fstat(descriptor))
    except Unfit:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, limit: int) -> bytes:
    """Return a regular file's content.

    Raises:
        Unfit: it is a folder, a pipe or a device, or has more than `limit` bytes.
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise Unfit(f"{path}: larger than {limit:,} bytes")
    return content


def _demand_regular(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise Unfit(f"{path}: not a regular file; replace it with one")
