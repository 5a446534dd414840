"""Fetch the files that this machine lacks from the search's machine.

They are kept in automerge's cache, by a digest of their content, so later searches find them there.
What was interrupted goes on where it stopped; nothing is used before its digests agree.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from filelock import FileLock

from automerge.errors import PreflightError
from automerge.executors.ray.depot import Listing
from automerge.files.cache import cache_home
from automerge.files.digest import sha256


class Source(Protocol):
    """Where files come from; see `Depot`."""

    def listings(self) -> Mapping[Path, Listing]: ...
    def digests(self, folder: Path) -> Mapping[str, str]: ...
    def piece(self, folder: Path, name: str, start: int, host: str) -> bytes: ...


def fetch_missing(source: Source) -> dict[Path, Path]:
    """Fetch every served folder that this machine does not have; return where its copy is.

    A folder is there if it has all served files, with the same sizes; whether they have the same
    content is for the worker to say.

    Raises:
        PreflightError: there is no room, or a file changes while it is sent.
    """
    return {
        folder: _fetch(source, folder, listing)
        for folder, listing in source.listings().items()
        if not _is_here(folder, listing)
    }


def received_folder() -> Path:
    """Return the folder of automerge's cache that copies are kept in."""
    return cache_home() / "received"


def _is_here(folder: Path, listing: Listing) -> bool:
    return all(_size(folder / name) == size for name, size in listing.items())


def _fetch(source: Source, folder: Path, listing: Listing) -> Path:
    digests = source.digests(folder)
    content = "".join(f"{name}\0{digests[name]}\0" for name in listing)
    home = received_folder() / hashlib.sha256(content.encode()).hexdigest()[:32]
    home.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(home.with_suffix(".lock")):
        if home.is_dir():
            return home
        partial = home.with_suffix(".partial")
        _check_room(folder, partial, listing)
        for name, size in listing.items():
            target = partial / name
            target.parent.mkdir(parents=True, exist_ok=True)
            # What was left of an earlier attempt may be broken: then it is sent again, once.
            for _ in range(2):
                _complete(source, folder, name, target, size)
                if sha256(target) == digests[name]:
                    break
                target.unlink()
            else:
                raise PreflightError(
                    f"{folder / name} changed while it was sent to {platform.node()}"
                )
        partial.mkdir(exist_ok=True)
        partial.rename(home)
    return home


def _complete(source: Source, folder: Path, name: str, target: Path, size: int) -> None:
    """Append to a file what it lacks."""
    host = platform.node()
    with target.open("ab") as file:
        if file.tell() > size:
            file.truncate(0)
        while (start := file.seek(0, os.SEEK_END)) < size:
            piece = source.piece(folder, name, start, host)
            if not piece:
                return  # it is shorter than it was, which its digest shows
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def _check_room(folder: Path, partial: Path, listing: Listing) -> None:
    left = sum(size - min(size, _size(partial / name) or 0) for name, size in listing.items())
    free = shutil.disk_usage(partial.parent).free
    if left > free:
        raise PreflightError(
            f"{platform.node()} has no copy of {folder}, and no room for one: "
            f"{left / 1e9:.1f} GB are needed in {partial.parent}, {free / 1e9:.1f} GB are free; "
            "make room, set XDG_CACHE_HOME there, or share the folder"
        )


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except OSError:
        return None
