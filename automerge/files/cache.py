"""Where automerge keeps what it can regenerate."""

from __future__ import annotations

import os
from pathlib import Path


def cache_home() -> Path:
    """Return automerge's folder in $XDG_CACHE_HOME, or in ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "automerge"
