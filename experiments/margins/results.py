"""results.json: what the experiment found, by zoo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "results.json"


def read() -> dict[str, Any]:
    """Everything found so far."""
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}


def save(*keys_and_value: Any) -> None:
    """Set one entry, under a path of keys."""
    *keys, value = keys_and_value
    results = read()
    place = results
    for key in keys[:-1]:
        place = place.setdefault(key, {})
    place[keys[-1]] = value
    FILE.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
