"""Numbers that JSON can represent."""

from __future__ import annotations

import math


def finite(value: float | None) -> float | None:
    """Return a number, or None for NaN and infinities, which JSON does not have."""
    return value if value is not None and math.isfinite(value) else None
