"""What the report says about the run itself: failures, time and provenance."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator
from typing import TypeAlias, get_args

from automerge.objective import Objective
from automerge.report.followed import in_words
from automerge.store.result import StudyResult, TrialResult
from automerge.trial import PARTS, Measured, Part

Row: TypeAlias = dict[str, object]

_PHASES = ("merging", "forward passes", "scoring", "other")


def duration(seconds: float) -> str:
    """Format a duration: 42 s, 3.5 min, 8.7 h."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def elapsed(result: StudyResult) -> float | None:
    """Return the seconds from start to finish; None while it runs."""
    if result.provenance.finished is None:
        return None
    try:
        start, end = (
            datetime.datetime.fromisoformat(text)
            for text in (result.provenance.started, result.provenance.finished)
        )
        return (end - start).total_seconds()
    except (ValueError, TypeError):
        return None


def failed(result: StudyResult) -> int:
    """Count the trials that failed on any part."""
    return sum(t.failure is not None for t in result.trials)


def failures(result: StudyResult) -> list[Row]:
    """Group failures by kind, part and reason, the most frequent first."""
    groups: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    for t in result.trials:
        if (failure := t.failure) is not None:
            part, failed = failure
            key = (failed.kind, f"on {part} items", failed.reason)
            groups.setdefault(key, []).append((t.trial.name, failed.traceback))
    rows: list[Row] = []
    for (kind, where, reason), found in groups.items():
        names = ", ".join(name for name, _ in found[:12]) + (" …" if len(found) > 12 else "")
        rows.append(
            {
                "kind": kind,
                "where": where,
                "reason": reason,
                "count": len(found),
                "names": names,
                "traceback": found[0][1],
            }
        )
    return sorted(rows, key=lambda row: -int(str(row["count"])))


def time_parts(result: StudyResult) -> list[Part]:
    """Return what was measured: parts of the split, and what explains the model to take."""
    measured = {part for t in result.trials for part, _ in measurements(t)}
    return [part for part in get_args(Part) if part in measured]


def measurements(trial: TrialResult) -> Iterator[tuple[Part, Measured]]:
    """Yield what was measured of a trial, with its part; last what explains it."""
    for part, outcome in trial.outcomes.items():
        if isinstance(outcome, Measured):
            yield part, outcome
    for outcome in trial.explained:
        yield "explain", outcome


def phases(result: StudyResult) -> list[Row]:
    """Return the workers' time in each phase, by part and in total, with shares."""
    seconds = {part: [0.0] * len(_PHASES) for part in time_parts(result)}
    for trial in result.trials:
        for part, outcome in measurements(trial):
            spent = outcome.timings
            for k, s in enumerate((spent.merge, spent.forward, spent.score, spent.rest)):
                seconds[part][k] += max(s, 0.0)
    total = math.fsum(map(math.fsum, seconds.values()))
    if total <= 0:
        return []
    rows: list[Row] = []
    start = 0.0
    for k, name in enumerate(_PHASES):
        phase = math.fsum(found[k] for found in seconds.values())
        share = 100 * phase / total
        rows.append(
            {
                "name": name,
                "start": round(start, 3),
                "share": round(share, 3),
                "text": duration(phase),
                "parts": [duration(found[k]) for found in seconds.values()],
            }
        )
        start += share
    return rows


def study_facts(result: StudyResult) -> list[tuple[str, str]]:
    """Return when, where and how the study ran."""
    p = result.provenance
    return [
        ("started", p.started),
        ("finished", p.finished or "not yet"),
        ("machine", p.machine),
        ("sampler and seed", f"{result.sampler}, {result.seed}"),
        ("slopes", in_words(result)),
        *([("answers generated", "; ".join(result.generated))] if result.generated else []),
        *([("batches", "; ".join(result.batched))] if result.batched else []),
        ("sources", ", ".join(result.sources)),
        ("layers", str(result.n_layers)),
    ]


def objective_row(objective: Objective, result: StudyResult) -> Row:
    """Return an objective's row, with its numbers of items and its task's digest."""

    def items(part: Part) -> str:
        found = [t.scores(part, objective.name) for t in result.trials]
        sizes = {len(scores.values) for scores in found if scores is not None}
        if not sizes:
            return "–"
        low, high = min(sizes), max(sizes)
        return str(low) if low == high else f"{low} to {high}"

    return {
        "name": objective.name,
        "task": objective.task,
        "metric": f"{objective.metric},{objective.filter}",
        "better": "higher" if objective.direction == "maximize" else "lower",
        "sizes": [items(part) for part in PARTS],
        "digest": result.provenance.tasks.get(objective.task, "not given"),
    }
