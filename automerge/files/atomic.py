"""Write files for others to read: whole or not at all, and without secrets."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from automerge.errors import StateError
from automerge.text.printable import inert
from automerge.text.redaction import redact


def write_atomically(path: Path, text: str) -> Path:
    """Write text to a draft beside `path`, then rename it into place.

    Secrets are hidden, and characters that readers obey are escaped (`automerge.text.printable`).

    Raises:
        StateError: the file cannot be written.
    """
    return write_bytes_atomically(path, inert(redact(text)).encode("utf-8"))


def write_bytes_atomically(path: Path, content: bytes) -> Path:
    """Write bytes to a draft beside `path`, then rename it into place.

    Links are not followed, whether at `path` or at the draft.

    Raises:
        StateError: the file cannot be written.
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
            f"cannot write {path}: {error.strerror}; free some space or choose another location"
        ) from error
    finally:
        with suppress(OSError):
            draft.unlink()
    return path
