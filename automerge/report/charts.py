"""The data that the report's script draws, as JSON-ready values."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from automerge import pareto
from automerge.estimation import Interval
from automerge.objective import Objective, goals
from automerge.report.compare import Versus, verdict
from automerge.report.hypervolume import progress
from automerge.report.summary import Member, Summary
from automerge.store.result import TrialResult
from automerge.text.json_number import finite

MAX_TRIALS = 1500
_MAX_STEPS = 400

Plain = dict[str, object]


def chart_data(summary: Summary) -> Plain:
    """Return objectives, members, trials, progress and parameters for the script."""
    objectives = summary.result.objectives
    measured = measured_trials(summary)
    losses = search_losses(objectives, measured)
    shown = [measured[row] for row in _shown_rows(losses)]
    return {
        "objectives": [_objective(o, summary) for o in objectives],
        "means": _means(summary),
        "members": [_member(row, m, summary) for row, m in enumerate(summary.members)],
        "trials": [{"name": t.trial.name, "values": _values(t, objectives)} for t in shown],
        "progress": _progress(objectives, summary.result.trials),
        "parameters": _parameters(objectives, measured, shown),
    }


def measured_trials(summary: Summary) -> list[TrialResult]:
    """Return the trials with an estimate of any objective on search items."""
    objectives = summary.result.objectives
    return [t for t in summary.result.trials if any(t.search_estimate(o) for o in objectives)]


def search_losses(
    objectives: Sequence[Objective], trials: Sequence[TrialResult]
) -> NDArray[np.float64]:
    """Return the search's estimates as losses, (trials, objectives); NaN if unknown."""
    found = [[t.search_estimate(o) for o in objectives] for t in trials]
    rows = [
        [math.nan if e is None else o.loss(e.value) for o, e in zip(objectives, row, strict=True)]
        for row in found
    ]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(objectives))


def _objective(objective: Objective, summary: Summary) -> Plain:
    unit = summary.units[objective.name]
    return {
        "name": objective.name,
        "minimize": objective.direction == "minimize",
        "percent": unit.percent,
        "scale": unit.scale,
        "decimals": unit.decimals,
        "best_parent": summary.best_parent.get(objective.name, ""),
    }


def _member(row: int, member: Member, summary: Summary) -> Plain:
    objectives = summary.result.objectives
    return {
        "index": row,
        "name": member.name,
        "label": f"{member.name}{', knee' if member.knee else ''}",
        "kind": member.kind,
        "knee": member.knee,
        "scores": [_score(member.scores[o.name][summary.part]) for o in objectives],
        "versus": [_versus(member.versus_parent.get(o.name), o) for o in objectives],
    }


def _means(summary: Summary) -> Plain | None:
    means = summary.means
    if means is None or len(summary.result.goals) == 1:
        return None
    objective = summary.result.goals[0]
    versus = {name: Versus(means.best_parent, d) for name, d in means.versus.items()}
    return {
        "best_parent": means.best_parent,
        "versus": [_versus(versus.get(m.name), objective) for m in summary.members],
    }


def _score(found: Interval | None) -> list[float | None] | None:
    if found is None or not math.isfinite(found.value):
        return None
    return [found.value, finite(found.low), finite(found.high)]


def _versus(found: Versus | None, objective: Objective) -> list[object] | None:
    if found is None or not math.isfinite(found.difference.difference):
        return None
    d = found.difference
    low, high = finite(d.low), finite(d.high)
    return [d.difference, low, high, found.against, verdict(d, objective)]


def _values(trial: TrialResult, objectives: Sequence[Objective]) -> list[float | None]:
    found = (trial.search_estimate(o) for o in objectives)
    return [None if e is None else finite(e.value) for e in found]


def _shown_rows(losses: NDArray[np.float64]) -> list[int]:
    """Return the rows of nondominated trials and of an even sample of all trials."""
    n = len(losses)
    if n <= MAX_TRIALS:
        return list(range(n))
    sample = np.linspace(0, n - 1, MAX_TRIALS).astype(int)
    return sorted({*np.flatnonzero(pareto.nondominated(losses)).tolist(), *sample.tolist()})


def _progress(objectives: Sequence[Objective], trials: Sequence[TrialResult]) -> Plain:
    wanted = goals(objectives)
    losses = search_losses(wanted, trials)
    if len(wanted) > 1:
        points = list(enumerate(progress(losses), start=1))
    else:
        best = np.fmin.accumulate(losses[:, 0]) if len(losses) else losses[:, 0]
        points = [
            (row, wanted[0].loss(float(loss)))
            for row, loss in enumerate(best, start=1)
            if math.isfinite(loss)
        ]
    keep = np.unique(np.linspace(0, len(points) - 1, min(len(points), _MAX_STEPS)).astype(int))
    return {
        "objective": list(objectives).index(wanted[0]) if len(wanted) == 1 else None,
        "points": [points[row] for row in keep.tolist()] if points else [],
    }


def _parameters(
    objectives: Sequence[Objective], measured: Sequence[TrialResult], shown: Sequence[TrialResult]
) -> list[Plain]:
    names = dict.fromkeys(name for t in measured for name in t.trial.params or {})
    found: list[Plain] = []
    losses = search_losses(objectives, measured)
    for name in names:
        values = [(t.trial.params or {}).get(name) for t in measured]
        known = [value for value in values if value is not None]
        if len(set(known)) < 2:
            continue
        numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in known)
        categories = None if numeric else sorted({str(value) for value in known})
        associations = [
            _correlation(values, losses[:, k])
            if categories is None
            else _correlation_ratio(values, losses[:, k])
            for k in range(len(objectives))
        ]
        own = [(t.trial.params or {}).get(name) for t in shown]
        found.append(
            {
                "name": name,
                "categories": categories,
                "associations": associations,
                "counts": [_known(values, losses[:, k]) for k in range(len(objectives))],
                "values": [
                    None if v is None else v if categories is None else categories.index(str(v))
                    for v in own
                ],
            }
        )
    return found


def _known(values: Sequence[object], losses: NDArray[np.float64]) -> int:
    """Count the trials that have both a value and a loss."""
    return sum(v is not None and bool(np.isfinite(x)) for v, x in zip(values, losses, strict=True))


def _correlation(values: Sequence[object], losses: NDArray[np.float64]) -> float | None:
    """Return Spearman's rank correlation with a better score; None for fewer than 4 values."""
    x = np.array([math.nan if v is None else float(str(v)) for v in values])
    known = np.isfinite(x) & np.isfinite(losses)
    x, y = x[known], -losses[known]
    if len(x) < 4 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return finite(float(stats.spearmanr(x, y).statistic))


def _correlation_ratio(values: Sequence[object], losses: NDArray[np.float64]) -> float | None:
    """Return the square root of the share of the ranks' variance that is between categories.

    The share is ε² (Kelley 1935), η² less what k categories of n values explain by chance; 0 where
    it is negative. None for fewer than 4 values, or where each is a category of its own.
    """
    known = [row for row, v in enumerate(values) if v is not None and np.isfinite(losses[row])]
    if len(known) < 4 or np.ptp(losses[known]) == 0:
        return None
    ranks = stats.rankdata(losses[known])
    groups: dict[str, list[float]] = {}
    for row, rank in zip(known, ranks.tolist(), strict=True):
        groups.setdefault(str(values[row]), []).append(rank)
    n, k = len(ranks), len(groups)
    if n == k:
        return None
    between = sum(len(g) * (np.mean(g) - ranks.mean()) ** 2 for g in groups.values())
    share = between / np.sum((ranks - ranks.mean()) ** 2)
    return finite(math.sqrt(max(1 - (1 - share) * (n - 1) / (n - k), 0.0)))
