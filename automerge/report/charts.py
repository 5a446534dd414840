"""The data that the report's script draws, as JSON-ready values."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from automerge import pareto
from automerge.estimation import Interval
from automerge.objective import Objective, goals
from automerge.report.associations import Association
from automerge.report.compare import Versus, verdict
from automerge.report.hypervolume import progress
from automerge.report.parameters import Parameter
from automerge.report.preferences import preferences
from automerge.report.searched import measured_trials, search_losses
from automerge.report.summary import Member, Summary
from automerge.store.result import TrialResult
from automerge.text.json_number import finite

MAX_TRIALS = 1500
_MAX_STEPS = 400

Plain = dict[str, object]


def chart_data(summary: Summary, varied: Sequence[Parameter]) -> Plain:
    """Return objectives, members, trials, progress, parameters and merges to choose from.

    `varied` are the parameters of the search, as `automerge.report.parameters` finds them.
    """
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
        "parameters": _parameters(varied, shown),
        "merges": preferences(summary),
    }


def _objective(objective: Objective, summary: Summary) -> Plain:
    unit = summary.units[objective.name]
    return {
        "name": objective.name,
        "minimize": objective.direction == "minimize",
        "goal": objective.goal,
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


def _parameters(found: Sequence[Parameter], shown: Sequence[TrialResult]) -> list[Plain]:
    return [
        {
            "name": parameter.name,
            "categories": parameter.categories,
            "associations": [_association(a) for a in parameter.associations],
            "values": [_value(parameter, t) for t in shown],
        }
        for parameter in found
    ]


def _association(found: Association) -> Plain:
    return {
        "explained": found.explained,
        "low": found.low,
        "high": found.high,
        "rank": found.rank,
        "n": found.n,
    }


def _value(parameter: Parameter, trial: TrialResult) -> object:
    """Return a trial's number, or its choice's place among the choices."""
    value = (trial.trial.params or {}).get(parameter.name)
    if value is None or parameter.categories is None:
        return value
    return parameter.categories.index(str(value))
