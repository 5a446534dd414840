"""What lm-eval's own tasks are called, as far as their files say without being parsed.

Parsing all 14,000 takes ten seconds or more, reading them a second.
"""

from __future__ import annotations

import functools
import re
from importlib.util import find_spec
from pathlib import Path

NOT_TASKS = frozenset({".py", ".pyc", ".md"})
"""Suffixes of files that no task file includes; those that are included have all kinds of names."""

_NAMED = re.compile(rb"^(?:task|group): *[\"']?([\w.+-]+)", re.MULTILINE)


def mentioned(name: str) -> bool:
    """Return whether the files contain a name; if not, no task, group or tag has it."""
    return name.encode() in _text()


def names() -> list[str]:
    """Return names of tasks and groups, those that are written plainly, for suggestions."""
    return sorted({name.decode() for name in _NAMED.findall(_text())})


@functools.cache
def _text() -> bytes:
    found = find_spec("lm_eval")
    assert found is not None
    assert found.submodule_search_locations
    folder = Path(found.submodule_search_locations[0], "tasks")
    files = (path for path in folder.rglob("*") if path.suffix not in NOT_TASKS)
    return b"\n".join(path.read_bytes() for path in files if path.is_file())
