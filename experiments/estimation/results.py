"""One file of results, one section per script."""

from __future__ import annotations

import json
from pathlib import Path

FILE = Path(__file__).parent / "results.json"


def read() -> dict[str, object]:
    """All sections; none before the first script has run."""
    found: dict[str, object] = json.loads(FILE.read_text()) if FILE.exists() else {}
    return found


def save(section: str, value: object) -> None:
    """Replace one section."""
    FILE.write_text(json.dumps({**read(), section: value}, indent=1) + "\n", encoding="utf-8")
