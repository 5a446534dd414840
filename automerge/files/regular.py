"""Regular files within limits of size: no pipe is waited for, no device is read to no end."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO


class Unfit(ValueError):
    """A path names no regular file, or one that is too large; says which."""


def regular_size(path: Path, limit: int) -> int:
    """Return a regular file's size in bytes.

    Raises:
        Unfit: it is a folder, a pipe or a device, or has more than `limit` bytes.
        OSError: nothing is there, or it cannot be looked at.
    """
    found = path.stat()
    _demand_regular(path, found)
    if found.st_size > limit:
        raise Unfit(f"{path}: {found.st_size:,} bytes; at most {limit:,} are read")
    return found.st_size


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file to read; nothing else, such as a pipe, is waited for.

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
        raise Unfit(f"{path}: not a regular file; replace it by one")
