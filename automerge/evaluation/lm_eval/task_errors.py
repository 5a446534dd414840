"""Say in one sentence what went wrong in a task's file or its Python, and where."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its kind if it has no text."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def cause(error: BaseException) -> str:
    """Return an error's kind and the first line of its text."""
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]


def raised_at(error: BaseException, files: Sequence[Path] = ()) -> str:
    """Say where in a task's own files an error comes from, as " (FILE:LINE)", else name its files.

    Files of installed packages and of the standard library are not the task's own.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}:{error.lineno})"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if _is_own(Path(frame.filename)):
            return f" ({frame.filename}:{frame.lineno})"
    return f" ({', '.join(map(str, files))})" if files else ""


def _is_own(path: Path) -> bool:
    installed = {"site-packages", "dist-packages", "lib", "automerge"}
    return path.suffix == ".py" and path.is_file() and not installed.intersection(path.parts)
