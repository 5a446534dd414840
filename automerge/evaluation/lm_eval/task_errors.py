"""Say where in a task's file or its Python something went wrong."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path


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
