"""Times as people write them."""

from __future__ import annotations

import re

UNITS = {"d": 86400, "h": 3600, "min": 60, "m": 60, "s": 1}


def seconds(text: str) -> float | None:
    """Read 8h, 90min, 1d12h or 45s in seconds; return None for anything else."""
    if not re.fullmatch(r"(?:\s*\d+(?:\.\d+)?\s*(?:d|h|min|m|s))+\s*", text):
        return None
    found = re.findall(r"(\d+(?:\.\d+)?)\s*(d|h|min|m|s)", text)
    return sum(float(number) * UNITS[unit] for number, unit in found) or None
