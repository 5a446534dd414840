"""Compiled code kept between runs, in a folder that only this user can write to.

Code that is loaded runs with all rights of the user. So a file counts only if it belongs to this
user, nobody else can write to it or to its folder, and its content matches its name: one that was
planted, truncated or damaged is removed and made again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import tempfile
from functools import cache
from pathlib import Path

from automerge.files.cache import cache_home

logger = logging.getLogger(__name__)

DIGITS = 32
"""Hexadecimal digits of the digests in names."""


def digest(data: bytes) -> str:
    """Return the digest that names a content, or everything that decides it."""
    return hashlib.sha256(data).hexdigest()[:DIGITS]


def kept() -> Path:
    """Return where compiled kernels are kept: a temporary folder if others could write there."""
    folder = cache_home() / "kernels"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    fault = unsafe(folder.resolve())
    return folder if fault is None else Path(passing(folder, fault).name)


@cache
def passing(instead_of: Path, fault: str) -> tempfile.TemporaryDirectory[str]:
    """Return a folder that ends with this process, and warn why."""
    logger.warning(
        "compiled kernels are not kept: %s %s; make it yours alone (chmod 700), or set "
        "XDG_CACHE_HOME to a folder of your own",
        instead_of,
        fault,
    )
    return tempfile.TemporaryDirectory(prefix="automerge-kernels-")


def unsafe(path: Path) -> str | None:
    """Say why others may have written a file or into a folder; None if nobody else could."""
    found = path.stat(follow_symlinks=False)
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        return "is neither a file nor a folder"
    if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
        return f"belongs to user {found.st_uid}"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written to by others"
    return None


def find(folder: Path, key: str) -> Path | None:
    """Find the intact file kept under a key, or None; damaged ones are removed."""
    for path in sorted(folder.glob(f"{key}-*.so")):
        fault = unsafe(path)
        if fault is None and path.name == name(key, path.read_bytes()):
            return path
        logger.warning("%s %s; it is made again", path, fault or "is damaged")
        path.unlink()
    return None


def keep(folder: Path, key: str, made: Path) -> Path:
    """Move a file into the folder, whole or not at all; return where it is."""
    made.chmod(0o600)
    return made.replace(folder / name(key, made.read_bytes()))


def name(key: str, content: bytes) -> str:
    """Name a file by what it was made for and by its content."""
    return f"{key}-{digest(content)}.so"
