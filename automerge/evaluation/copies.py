"""Copies in a run folder of what evaluators read."""

from __future__ import annotations

from pathlib import Path

from automerge.errors import PreflightError


def write_copy(path: Path, content: bytes) -> None:
    """Write a copy, unless it is there; raises PreflightError."""
    try:
        if path.is_file() and path.read_bytes() == content:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise PreflightError(f"cannot write {path}: {error.strerror}") from error
