"""Items of Python tasks: a file of JSON objects, one per line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

MAX_BYTES = 2**30
"""Most bytes of a file of items."""
MAX_FAULTS = 10
"""How many of a file's broken lines are reported."""


class BrokenItems(ValueError):
    """A file that is not one of items; the message says where."""


def read_items(path: Path) -> list[dict[str, Any]]:
    """Read a JSON object per line; blank lines are skipped.

    Raises:
        BrokenItems: the file cannot be read, holds something else or no items; it names the lines.
    """
    try:
        if not path.is_file():
            raise BrokenItems(f"no such file: {path}")
        if path.stat().st_size > MAX_BYTES:
            raise BrokenItems(f"{path} has more than {MAX_BYTES} bytes")
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BrokenItems(f"{path} is not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise BrokenItems(f"cannot read {path}: {error.strerror}") from error
    items: list[dict[str, Any]] = []
    faults: list[str] = []
    # Not splitlines(): JSON strings may hold U+2028 and other line ends literally.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            item = json.loads(line, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            said = "nested too deeply" if isinstance(error, RecursionError) else error
            faults.append(f"line {number} is not JSON: {said}")
            continue
        if isinstance(item, dict):
            items.append(item)
        else:
            kind = type(item).__name__
            faults.append(f"line {number} is not a JSON object but {kind}; write {{...}} per line")
    if faults:
        more = len(faults) - MAX_FAULTS
        shown = [*faults[:MAX_FAULTS], *([f"and {more} more lines"] if more > 0 else [])]
        raise BrokenItems(f"{path}: {'; '.join(shown)}")
    if not items:
        raise BrokenItems(f"{path} holds no items; write one JSON object per line")
    return items


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")
