"""Where on this machine models lie that are named by the digest of their content.

Files for others name a model that has no place near them as `local:NAME@DIGEST`. This machine
remembers, outside of those files, the folder of each model that a study began with.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path

from automerge.errors import StateError
from automerge.files.atomic import write_bytes_atomically
from automerge.files.cache import cache_home

KIND = "local"
MAX_BYTES = 1_000_000

_REFERENCE = re.compile(r"local:([A-Za-z0-9][\w.-]*)@([0-9a-f]{64})", re.ASCII)

_Stamp = list[list[str | int]]


def known_reference(name: str, digest: str) -> str:
    """Return the reference that names a model by its content."""
    return f"{KIND}:{name}@{digest}"


def is_known(reference: str) -> bool:
    """Return whether a reference is of this kind, well-formed or not."""
    return reference.startswith(f"{KIND}:")


def remember(folder: Path, digest: str) -> None:
    """Remember that a folder holds the model with this digest; without a cache, do nothing."""
    with suppress(OSError, StateError):
        home = _home()
        home.mkdir(parents=True, exist_ok=True)
        plain = {"folder": str(folder.resolve()), "files": _stamp(folder)}
        write_bytes_atomically(home / f"{digest}.json", json.dumps(plain).encode())


def find(digest: str) -> Path | None:
    """Return the folder with this digest if it is known and unchanged since."""
    try:
        with (_home() / f"{digest}.json").open("rb") as file:
            plain = json.loads(file.read(MAX_BYTES))
        folder = Path(plain["folder"])
        unchanged = _stamp(folder) == plain["files"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return folder if unchanged else None


def locate(reference: str) -> Path:
    """Return the folder of a reference of this kind.

    Raises:
        ValueError: it is malformed, or this machine does not know the model; for the user.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise ValueError(f"{reference!r}: expected {KIND}:NAME@DIGEST, with 64 hexadecimal digits")
    name, digest = match.groups()
    if (folder := find(digest)) is None:
        raise ValueError(
            f"this machine does not know where the model {name!r} with digest {digest[:12]} is; "
            "write its folder or hub id in place of this text"
        )
    return folder


def _home() -> Path:
    return cache_home() / "models"


def _stamp(folder: Path) -> _Stamp:
    """Return names, sizes and times of a folder's files, which change when they are written to."""
    files = sorted((entry.name, entry.stat()) for entry in os.scandir(folder) if entry.is_file())
    return [[name, found.st_size, found.st_mtime_ns] for name, found in files]
