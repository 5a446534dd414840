"""References to models: a folder as an absolute path, a hub id with a revision, or noise."""

from __future__ import annotations

import os
import re
from pathlib import Path

from automerge.files.known import is_known, locate
from automerge.files.noise import Noise, is_noise

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", re.ASCII)
NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
"""What models, studies and recipes may be called."""


def resolve(text: str, *folders: Path) -> str:
    """Turn what a user wrote into a reference.

    Text that exists on disk or begins with `.`, `/` or `~` is a path; text that
    begins with `noise:` is low-rank noise (`automerge.files.noise`), with `local:` a model that
    this machine knows by its content (`automerge.files.known`); all else is a hub id.

    Args:
        text: what the user wrote.
        folders: relative paths are looked up in these, in order.

    Raises:
        ValueError: it is neither a folder nor a hub id; the message is for the user.
    """
    if not text or "\0" in text:
        raise ValueError("expected a folder or a hub id, got nothing")
    if is_noise(text):
        return Noise.parse(text).text
    if is_known(text):
        return str(locate(text))
    paths = list(dict.fromkeys(join(folder, text) for folder in folders))
    if (found := next(filter(is_folder, paths), None)) is not None:
        return str(found)
    if any(map(exists, paths)):
        raise ValueError(f"{text} is a file; expected a model's folder or a hub id (org/name)")
    looked = " nor ".join(map(str, paths))
    if text.startswith((".", "/", "~")):
        before, at, _ = text.rpartition("@")
        if at and any(is_folder(join(folder, before)) for folder in folders):
            raise ValueError(f"{before} is a local folder, which has no revision; drop the '@...'")
        raise ValueError(f"no such folder: {looked}")
    if _HUB_ID.fullmatch(text):
        return text
    raise ValueError(
        f"{text!r} is neither a folder that exists ({looked}) nor a hub id (org/name[@revision])"
    )


def split_name(text: str, folder: Path) -> tuple[str, str]:
    """Split NAME=REFERENCE into both; the name is "" where the text is a reference alone.

    Text that exists in `folder`, or has a `/` before its first `=`, is a reference.

    Raises:
        ValueError: the name is not allowed, or nothing follows it; the message is for the user.
    """
    name, equals, reference = text.partition("=")
    if not equals or "/" in name or exists(join(folder, text)):
        return "", text
    if not NAME.fullmatch(name) or not reference:
        raise ValueError(f"{text!r}: expected NAME=PATH_OR_HUB_ID")
    return name, reference


def is_local(reference: str) -> bool:
    """Return whether a resolved reference is a folder rather than a hub id."""
    return Path(reference).is_absolute()


def split_revision(reference: str) -> tuple[str, str | None]:
    """Split a reference into the folder or hub id and the revision; None if none is given."""
    if is_local(reference):
        return reference, None
    name, _, revision = reference.partition("@")
    return name, revision or None


def short_name(reference: str) -> str:
    """Return a name for a model: the last part of its path or hub id."""
    last = Path(split_revision(reference)[0]).name
    name = re.sub(r"[^\w.-]+", "-", last, flags=re.ASCII).lstrip("._-")
    return name or "model"


def join(folder: Path, text: str) -> Path:
    """Return the absolute path of what a user wrote in a file in `folder`, expanding `~`."""
    try:
        path = folder / Path(text).expanduser()
    except RuntimeError:  # ~ of a user who does not exist
        path = folder / text
    return Path(os.path.normpath(path.absolute()))


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder; False if it is too long or contains a NUL."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def exists(path: Path) -> bool:
    """Return whether a path exists; False if it is too long or contains a NUL."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
