"""Files that a machine lacks reach it whole, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from automerge.errors import PreflightError
from automerge.executors import Files
from automerge.executors.ray import delivery
from automerge.executors.ray.delivery import fetch_missing, received_folder
from automerge.executors.ray.depot import Depot

PIECE = 1000
CONTENT = bytes(range(256)) * 20


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with patch("automerge.executors.ray.depot.PIECE_BYTES", PIECE):
        yield tmp_path / "cache"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "there"
    (folder / "sub").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(CONTENT)
    (folder / "sub" / "notes.txt").write_text("notes")
    (folder / "empty.txt").touch()
    (folder / "secret.key").write_text("not served")
    return folder


PATTERNS = ("*.bin", "**/*.txt")


class Elsewhere(Depot):
    """A depot on a machine on which the folders have the same names, though they are not here."""

    def __init__(self, folder: Path, cut_after: int | None = None) -> None:
        super().__init__([Files(folder, PATTERNS)])
        self._folder, self._left, self.asked = folder, cut_after, 0

    def listings(self) -> dict[Path, dict[str, int]]:
        return {Path("/not/here"): dict(super().listings()[self._folder])}

    def digests(self, folder: Path) -> dict[str, str]:
        return dict(super().digests(self._folder))

    def piece(self, folder: Path, name: str, start: int, host: str) -> bytes:
        if self._left == 0:
            raise ConnectionError("the line is cut")
        self._left = None if self._left is None else self._left - 1
        self.asked += 1
        return super().piece(self._folder, name, start, host)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def served(model: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(model).items() if name != "secret.key"}


def test_what_is_here_is_not_sent(model: Path) -> None:
    assert fetch_missing(Depot([Files(model, PATTERNS)])) == {}
    assert not received_folder().exists()


def test_a_copy_has_the_served_files_and_no_others(model: Path) -> None:
    depot = Elsewhere(model)
    moved = fetch_missing(depot)
    assert contents(moved[Path("/not/here")]) == served(model)
    assert sum(depot.sent().values()) == sum(map(len, served(model).values()))


def test_a_copy_is_made_once(model: Path) -> None:
    first = fetch_missing(Elsewhere(model))
    again = Elsewhere(model)
    assert fetch_missing(again) == first
    assert not again.sent()


def test_other_content_is_another_copy(model: Path) -> None:
    first = fetch_missing(Elsewhere(model))
    (model / "weights.bin").write_bytes(CONTENT[::-1])
    assert fetch_missing(Elsewhere(model)) != first


def test_an_interrupted_copy_goes_on_where_it_stopped(model: Path) -> None:
    whole = Elsewhere(model)
    whole_pieces = len(CONTENT) // PIECE + 1 + 1
    with pytest.raises(ConnectionError):
        fetch_missing(Elsewhere(model, cut_after=4))
    assert not [p for p in received_folder().iterdir() if not p.suffix]
    moved = fetch_missing(whole)
    assert contents(moved[Path("/not/here")]) == served(model)
    assert whole.asked == whole_pieces - 4


@pytest.mark.parametrize("left", [b"", CONTENT[:-1] + b"?", b"?" * 100, CONTENT + b"too long"])
def test_what_an_earlier_attempt_left_is_checked(model: Path, left: bytes) -> None:
    with pytest.raises(ConnectionError):
        fetch_missing(Elsewhere(model, cut_after=0))
    (partial,) = received_folder().glob("*.partial")
    (partial / "weights.bin").write_bytes(left)
    moved = fetch_missing(Elsewhere(model))
    assert contents(moved[Path("/not/here")]) == served(model)


@pytest.mark.parametrize("changed", [CONTENT[::-1], CONTENT[:100]])
def test_a_file_that_changes_on_the_way_is_refused(model: Path, changed: bytes) -> None:
    depot = Elsewhere(model)
    depot.digests(model)
    (model / "weights.bin").write_bytes(changed)
    with pytest.raises(PreflightError, match=r"weights\.bin changed while it was sent"):
        fetch_missing(depot)


def test_without_room_nothing_is_sent(model: Path) -> None:
    depot = Elsewhere(model)
    usage = delivery.shutil.disk_usage(model)
    with (
        patch.object(delivery.shutil, "disk_usage", lambda _: usage._replace(free=100)),
        pytest.raises(PreflightError, match="no room for one"),
    ):
        fetch_missing(depot)
    assert not depot.sent()


def test_only_listed_files_are_served(model: Path) -> None:
    depot = Depot([Files(model, PATTERNS)])
    for name in ("secret.key", "../there/weights.bin", "/etc/passwd"):
        with pytest.raises(ValueError, match="not served"):
            depot.piece(model, name, 0, "host")
