"""When a measurement has hung."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass, field

MIN_S = 300.0
TIMES_MEDIAN = 4.0
KNOWN = 3
"""Measurements that must have been seen before any is called late."""
REMEMBERED = 101


@dataclass
class Deadline:
    """Learns how long an item takes; says how long a measurement of some items may take.

    No limit before `KNOWN` measurements; then `TIMES_MEDIAN` times the median, never under
    `min_s`. Durations are of a monotonic clock: setting the time of day changes nothing.
    """

    min_s: float = MIN_S
    _seconds: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def saw(self, n_items: int, took_s: float) -> None:
        """Learn from a measurement that finished."""
        self._seconds.append(took_s / max(n_items, 1))

    def limit_s(self, n_items: int) -> float | None:
        """How long so many items may take; None where it is not known yet."""
        if len(self._seconds) < KNOWN:
            return None
        typical = statistics.median(self._seconds)
        return max(self.min_s, TIMES_MEDIAN * typical * max(n_items, 1))
