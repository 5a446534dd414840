"""Times of one repeat of a benchmark, and the median of several."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import ClassVar, Self


@dataclass(frozen=True)
class Times:
    """Seconds of one candidate. Subclasses name the properties shown beside them, and their fields
    that are counts, of which the median is no number of any use."""

    SHOWN: ClassVar[tuple[str, ...]] = ()
    COUNTS: ClassVar[tuple[str, ...]] = ()

    def plain(self) -> dict[str, float]:
        """Return JSON-ready values, with the properties shown."""
        return {**asdict(self), **{name: getattr(self, name) for name in self.SHOWN}}

    @classmethod
    def median(cls, times: Sequence[Self]) -> Self:
        """Return the median of each time, and the maximum of each count."""
        return cls(
            **{
                field.name: (max if field.name in cls.COUNTS else statistics.median)(
                    getattr(time, field.name) for time in times
                )
                for field in fields(cls)
            }
        )
