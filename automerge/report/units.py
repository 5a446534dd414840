"""How numbers of an objective are written for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from automerge.objective import Objective
from automerge.report.model import TrialResult
from automerge.trial import PARTS, Measured

UNKNOWN = "?"


@dataclass(frozen=True)
class Unit:
    """Writes values either as percentages and points, or with four significant digits."""

    percent: bool

    @property
    def noun(self) -> str:
        """The word after a difference."""
        return " points" if self.percent else ""

    @property
    def scale(self) -> float:
        """What values are multiplied by before they are shown."""
        return 100.0 if self.percent else 1.0

    def value(self, value: float) -> str:
        """Write a value: 61.3, or 7.214."""
        if not math.isfinite(value):
            return UNKNOWN
        return f"{100 * value:.1f}" if self.percent else f"{value:.4g}"

    def difference(self, value: float) -> str:
        """Write a signed difference with a true minus sign: +1.2, −0.5."""
        if not math.isfinite(value):
            return UNKNOWN
        text = f"{100 * value:+.1f}" if self.percent else f"{value:+.3g}"
        return text.replace("-", "−").replace("−0.0", "0.0").replace("+0.0", "0.0")

    def width(self, value: float) -> str:
        """Write half an interval's width: ±2.9."""
        if not math.isfinite(value):
            return f"±{UNKNOWN}"
        return f"±{100 * value:.1f}" if self.percent else f"±{value:.2g}"


def units(objectives: Sequence[Objective], trials: Sequence[TrialResult]) -> dict[str, Unit]:
    """Choose a unit an objective: percent for means whose every score lies in [0, 1]."""
    percent = {o.name: o.aggregation == "mean" for o in objectives}
    for trial in trials:
        for part in PARTS:
            outcome = trial.outcomes.get(part)
            if isinstance(outcome, Measured):
                for name, scores in outcome.scores.items():
                    if percent.get(name) and scores.values:
                        percent[name] = min(scores.values) >= 0 and max(scores.values) <= 1
    return {name: Unit(flag) for name, flag in percent.items()}
