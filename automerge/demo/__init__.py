"""A zoo small enough to ship: one base, sources fine-tuned from it, and a task per source.

The models and the items are made by `experiments/demo_zoo` in the repository; its README holds
the scores.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final


def folder() -> Path:
    """The installed demo: `base`, `sources` and `tasks` lie in it."""
    return Path(__file__).resolve().parent


BASE: Final[Path] = folder() / "base"
SOURCES: Final[dict[str, Path]] = {
    name: folder() / "sources" / name for name in ("sorting", "clock", "median", "facts")
}
CONFIG: Final[Path] = folder() / "config.yaml"
TASKS: Final[tuple[str, ...]] = tuple(f"demo_{name}" for name in SOURCES)
