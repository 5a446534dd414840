"""What a study cost: workers' time by phase, tokens, and whether its first merge foretold it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from automerge.items import SLOPE_PASSES
from automerge.report.run_sections import duration, measurements
from automerge.store.result import StudyResult, TrialResult
from automerge.trial import GENERATING, Measured


@dataclass(frozen=True)
class Spending:
    """What measurements took, in seconds of workers' time.

    Attributes:
        search: of trials, with and without slopes.
        slopes: of those with slopes.
        select: of selection.
        test: of the test.
        explain: of slopes that explain the model to take.
        merging: of all these, what merging took.
        generating: of all these, what generating answers took.
        tokens: tokens run through models.
        slope_tokens: those of measurements with slopes, which take about three times as long.
        foretold: what all this would take at the pace of the first merge, the uniform average; None
            where that was not measured.
    """

    search: float
    slopes: float
    select: float
    test: float
    explain: float
    merging: float
    generating: float
    tokens: int
    slope_tokens: int
    foretold: float | None

    @property
    def total(self) -> float:
        """All phases together."""
        return self.search + self.select + self.test + self.explain


def spending(result: StudyResult) -> Spending | None:
    """Return what a study has cost so far; None if nothing was measured."""
    parts: dict[str, list[Measured]] = {"search": [], "select": [], "test": [], "explain": []}
    for trial in result.trials:
        for part, own in measurements(trial):
            parts[part].append(own)
    everything = [own for found in parts.values() for own in found]
    if not everything:
        return None
    sloped = [own for own in parts["search"] if own.slopes]
    return Spending(
        **{part: _seconds(found) for part, found in parts.items()},
        slopes=_seconds(sloped),
        merging=math.fsum(own.timings.merge for own in everything),
        generating=math.fsum(
            own.notes.get(GENERATING, 0.0) * own.timings.forward for own in everything
        ),
        tokens=sum(own.tokens for own in everything),
        slope_tokens=sum(own.tokens for own in (*sloped, *parts["explain"])),
        foretold=_foretold(result, [*parts["search"], *parts["select"], *parts["test"]]),
    )


def in_words(result: StudyResult) -> str:
    """Say what a study cost; empty if nothing was measured."""
    found = spending(result)
    if found is None or found.total <= 0:
        return ""
    slopes = f", {duration(found.slopes)} of it with slopes" if found.slopes else ""
    later = [
        f"{name} {duration(seconds)}"
        for name, seconds in (
            ("selection", found.select),
            ("test", found.test),
            ("explaining", found.explain),
        )
        if seconds
    ]
    phases = "; ".join([f"search {duration(found.search)}{slopes}", *later])
    foretold = (
        ""
        if found.foretold is None
        else f" At the pace of the first merge, it would have been {duration(found.foretold)}."
    )
    generating = (
        f" and {100 * found.generating / found.total:.0f} % generating" if found.generating else ""
    )
    return (
        f"{duration(found.total)} of workers' time ({phases}), "
        f"{100 * found.merging / found.total:.0f} % of it merging{generating}; "
        f"{found.tokens:,} tokens.{foretold}"
    )


def _seconds(found: list[Measured]) -> float:
    return math.fsum(own.timings.total for own in found)


def _foretold(result: StudyResult, measured: list[Measured]) -> float | None:
    """Return the time of these measurements by the items and merge of the uniform average."""
    first = next((t for t in result.trials if t.trial.number == result.uniform), None)
    pace = None if first is None else _pace(first)
    if pace is None:
        return None
    merge, per_item = pace
    explained = [own for trial in result.trials for own in trial.explained]  # items unknown
    items = [(SLOPE_PASSES if own.slopes else 1) * _items(own) for own in measured]
    return math.fsum(merge + per_item * n for n in items) + _seconds(explained)


def _pace(trial: TrialResult) -> tuple[float, float] | None:
    """Return the seconds of a merge and of an item."""
    outcome = trial.outcomes.get("search")
    if not isinstance(outcome, Measured) or not (n := _items(outcome)):
        return None
    return outcome.timings.merge, (outcome.timings.total - outcome.timings.merge) / n


def _items(measured: Measured) -> int:
    """Count the items; one that several objectives score counts once."""
    return len({item for scores in measured.scores.values() for item in scores.items})
