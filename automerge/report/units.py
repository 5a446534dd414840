"""How an objective's numbers are formatted for people."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from automerge.estimation.intervals import MEANS, Interval
from automerge.objective import Objective
from automerge.store.result import TrialResult

UNKNOWN = "?"
_DIGITS = 4


@dataclass(frozen=True)
class Unit:
    """Formats values as percentages and points, or plainly, with a fixed number of decimals.

    What is `exact` is known without error.
    """

    percent: bool
    decimals: int = 1
    exact: bool = False

    @property
    def noun(self) -> str:
        """The word after a difference."""
        return " points" if self.percent else ""

    @property
    def scale(self) -> float:
        """The factor that values are multiplied by before they are shown."""
        return 100.0 if self.percent else 1.0

    def value(self, value: float) -> str:
        """Format a value: 61.3, or 7.214."""
        if not math.isfinite(value):
            return UNKNOWN
        return f"{self.scale * value:.{self.decimals}f}".replace("-", "−")

    def difference(self, value: float) -> str:
        """Format a signed difference with a true minus sign: +1.2, −0.5, 0.0."""
        if not math.isfinite(value):
            return UNKNOWN
        rounded = round(self.scale * value, self.decimals)
        sign = "+" if rounded > 0 else ""
        return sign + f"{rounded + 0.0:.{self.decimals}f}".replace("-", "−")

    def score(self, found: Interval) -> str:
        """Format a value with half its interval's width, if it has an error: 61.3 ±2.9."""
        value = self.value(found.value)
        return value if self.exact else f"{value} ±{self.value(found.half_width)}"


def units(objectives: Sequence[Objective], trials: Sequence[TrialResult]) -> dict[str, Unit]:
    """Choose a unit per objective: percent for means whose scores all lie in [0, 1]."""
    return {o.name: _unit(o, trials) for o in objectives}


def _unit(objective: Objective, trials: Sequence[TrialResult]) -> Unit:
    scores = [
        scores.values
        for trial in trials
        for part in trial.outcomes
        if (scores := trial.scores(part, objective.name)) is not None and scores.values
    ]
    within = all(min(values) >= 0 and max(values) <= 1 for values in scores)
    if objective.aggregation in MEANS and within:
        return Unit(percent=True, exact=objective.is_exact)
    believed = [t.search_estimate(objective) for t in trials]
    sizes = [abs(e.value) for e in believed if e is not None and math.isfinite(e.value)]
    typical = statistics.median(sizes) if sizes else 1.0
    exponent = math.floor(math.log10(typical)) if typical > 0 else 0
    decimals = min(max(_DIGITS - 1 - exponent, 0), 8)
    return Unit(percent=False, decimals=decimals, exact=objective.is_exact)
