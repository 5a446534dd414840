"""What a search's machine serves to machines that lack files: listings, digests, pieces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from automerge.executors.base import Files
from automerge.files.digest import sha256

PIECE_BYTES = 1 << 25

Listing: TypeAlias = Mapping[str, int]
"""Sizes in bytes of a folder's files, by their paths within it."""


class Depot:
    """Serves files of the given folders, and nothing else; lives on the search's machine."""

    def __init__(self, served: Sequence[Files]) -> None:
        self._listings = {one.folder: _listing(one) for one in served}
        self._digests: dict[Path, Mapping[str, str]] = {}
        self._sent: Counter[str] = Counter()

    def listings(self) -> Mapping[Path, Listing]:
        """Return what is served, by folder."""
        return self._listings

    def digests(self, folder: Path) -> Mapping[str, str]:
        """Return the SHA-256 of every file of a folder, each read once."""
        if folder not in self._digests:
            self._digests[folder] = {name: sha256(folder / name) for name in self._listings[folder]}
        return self._digests[folder]

    def piece(self, folder: Path, name: str, start: int, host: str) -> bytes:
        """Return up to `PIECE_BYTES` of a file, and count them as sent to a host."""
        if name not in self._listings[folder]:
            raise ValueError(f"{name} is not served")
        with (folder / name).open("rb") as file:
            file.seek(start)
            found = file.read(PIECE_BYTES)
        self._sent[host] += len(found)
        return found

    def sent(self) -> Mapping[str, int]:
        """Return the bytes sent so far, by host."""
        return dict(self._sent)


def _listing(served: Files) -> Listing:
    found = {file for pattern in served.patterns for file in served.folder.glob(pattern)}
    return {
        file.relative_to(served.folder).as_posix(): file.stat().st_size
        for file in sorted(found)
        if file.is_file()
    }
