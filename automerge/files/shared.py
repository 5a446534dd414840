"""Names of places for files that others may read: nothing says where this machine keeps things."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

HERE = "./"


def near(path: Path | str, folder: Path) -> str | None:
    """Return a path relative to a folder, beginning with `.`; None if the two are not near.

    They are near if they share a folder other than the root and those around the user's home, so
    that the relative path names neither the user nor the machine's disks.
    """
    target, start = os.path.abspath(path), os.path.abspath(folder)  # noqa: PTH100
    shared = Path(os.path.commonpath([target, start]))
    if shared == Path(shared.anchor) or shared in Path.home().parents:
        return None
    relative = Path(os.path.relpath(target, start)).as_posix()
    return relative if relative.startswith(".") else f"{HERE}{relative}"


def shared_name(path: Path | str, folder: Path) -> str:
    """Return a path relative to a folder near it, else its last part."""
    return near(path, folder) or Path(path).name


def shared_words(words: list[str], folder: Path) -> list[str]:
    """Return the words of a command line with absolute paths as `shared_name` has them."""
    return [_ABSOLUTE.sub(lambda found: shared_name(found.group(), folder), w) for w in words]


def without_places(text: str, run: Path) -> str:
    """Return text without where the run folder, this folder, Python and the home are."""
    places = {
        str(run.resolve()): "RUN",
        os.path.abspath(run): "RUN",  # noqa: PTH100
        sys.prefix: "PYTHON",
        sys.base_prefix: "PYTHON",
        str(Path(__file__).parents[2]): "AUTOMERGE",
        str(Path.cwd()): ".",
        str(Path.home()): "~",
    }
    for place, name in sorted(places.items(), key=lambda pair: -len(pair[0])):
        if place != os.sep:
            text = re.sub(rf"(?<![\w.-]){re.escape(place)}(?=[/\"\s:,;)\]']|$)", name, text)
    return text


_ABSOLUTE = re.compile(r"(?:(?<==)|^)/[^\0]*$")
