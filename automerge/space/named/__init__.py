"""Search spaces that ship with the package, used by name: a YAML file each, the name its stem.

A file begins with a comment whose first sentence says what the space is for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from automerge.errors import ConfigError, nearest

FOLDER: Final[Path] = Path(__file__).resolve().parent
"""Where the files are."""
NAMED: Final[tuple[str, ...]] = tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))
"""The names of all named spaces, in alphabetical order."""


def is_name(text: str) -> bool:
    """Return whether a text is a name: a file is written with a slash, or ends in .yaml or .yml."""
    return "/" not in text and not text.endswith((".yaml", ".yml"))


def space_file(name: str) -> Path:
    """Return the file of a named space.

    Raises:
        ConfigError: none is named so.
    """
    if name not in NAMED:
        advice = f"{nearest(name, NAMED)} (a file is FILE.yaml)"
        raise ConfigError(f"unknown search space {name!r}{advice}")
    return FOLDER / f"{name}.yaml"


def purpose(text: str) -> str:
    """Return the first sentence of the comment that a space's YAML begins with; "" without one."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return " ".join(lines).partition(". ")[0].removesuffix(".")
