"""When a measurement counts as hung."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass, field

MIN_S = 300.0
TIMES_MEDIAN = 4.0
KNOWN = 3
"""The number of measurements that must have finished before any counts as late."""
REMEMBERED = 101


@dataclass
class Deadline:
    """Learns how long an item takes, and limits how long a measurement may take.

    There is no limit before `KNOWN` measurements; then it is `TIMES_MEDIAN` times the median, and
    at least `min_s`. Durations come from a monotonic clock, so setting the time changes nothing.
    """

    min_s: float = MIN_S
    _seconds: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def saw(self, n_items: int, took_s: float) -> None:
        """Learn from a measurement that finished."""
        self._seconds.append(took_s / max(n_items, 1))

    def limit_s(self, n_items: int) -> float | None:
        """Return how many seconds this many items may take; None if it is not known yet."""
        if len(self._seconds) < KNOWN:
            return None
        typical = statistics.median(self._seconds)
        return max(self.min_s, TIMES_MEDIAN * typical * max(n_items, 1))
