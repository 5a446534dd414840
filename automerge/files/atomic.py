"""Writing what others will read: whole or not at all, and without secrets."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from automerge.errors import StateError
from automerge.text.printable import inert
from automerge.text.redaction import redact


def write_atomically(path: Path, text: str) -> Path:
    """Write harmless text beside `path`, then rename it into place.

    It is without secrets and without characters that a reader obeys (`automerge.text.printable`).
    """
    return write_bytes_atomically(path, inert(redact(text)).encode("utf-8"))


def write_bytes_atomically(path: Path, content: bytes) -> Path:
    """Write beside `path`, then rename into place; StateError where the disk refuses.

    Neither a link at `path` nor one at the draft is followed.
    """
    draft = path.with_name(f".{path.name[:100]}.{os.getpid()}")
    try:
        draft.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(draft, flags, 0o666), "wb") as file:
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
