"""How optimistic search scores are about what the search chose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from automerge.objective import Direction, Estimate


@dataclass(frozen=True)
class Optimism:
    """The mean of (search - test), positive where the search looked better than the test.

    `stderr` assumes that the models' errors agree fully, as they share items: an upper bound.
    """

    value: float
    stderr: float
    models: int


def optimism(
    search: Sequence[Estimate], test: Sequence[Estimate], direction: Direction
) -> Optimism:
    """Compare the search's estimates of some models with the test's.

    The winner's curse: the chosen of many noisy candidates look better than they are (Cawley &
    Talbot 2010, JMLR 11, 2079-2107). Search and test items are disjoint, so their variances add.
    """
    pairs = list(zip(search, test, strict=True))
    if not pairs:
        return Optimism(math.nan, math.nan, 0)
    sign = 1 if direction == "maximize" else -1
    k = len(pairs)
    return Optimism(
        sum(sign * (s.value - t.value) for s, t in pairs) / k,
        sum(math.hypot(s.stderr, t.stderr) for s, t in pairs) / k,
        k,
    )
