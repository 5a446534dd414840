"""A zoo small enough to ship: one base, sources fine-tuned from it, and a task per source.

The models and items are made by `experiments/demo_zoo` in the repository; its README has the
scores.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final


def folder() -> Path:
    """Return the folder of the installed demo, with `base`, `sources` and `tasks` in it."""
    return Path(__file__).resolve().parent


BASE: Final[Path] = folder() / "base"
SOURCES: Final[dict[str, Path]] = {
    name: folder() / "sources" / name for name in ("sorting", "clock", "median", "facts")
}
CONFIG: Final[Path] = folder() / "config.yaml"
TASKS: Final[tuple[str, ...]] = tuple(f"demo_{name}" for name in SOURCES)
