"""Writing what others will read: whole or not at all, and without secrets."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from automerge.errors import StateError
from automerge.redaction import redact


def write_atomically(path: Path, text: str) -> Path:
    """Write redacted text beside `path`, then rename it into place."""
    return write_bytes_atomically(path, redact(text).encode("utf-8"))


def write_bytes_atomically(path: Path, content: bytes) -> Path:
    """Write beside `path`, then rename into place; StateError where the disk refuses."""
    draft = path.with_name(f".{path.name[:100]}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise StateError(
            f"cannot write {path}: {error.strerror}; free some space, or choose another place"
        ) from error
    finally:
        with suppress(OSError):
            draft.unlink()
    return path
