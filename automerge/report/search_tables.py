"""The report's tables of what was tried: every trial, and what each parameter explains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from automerge.estimation.ranks import mean_ranks
from automerge.objective import goals
from automerge.report.associations import MIN_TRIALS, Association
from automerge.report.parameters import Parameter
from automerge.report.searched import measured_trials, search_losses
from automerge.report.summary import Summary
from automerge.store.result import TrialResult

Row: TypeAlias = dict[str, object]

MAX_ROWS = 200
"""The maximum number of trials in the table."""
PARAMETERS_TEXT = (
    "Explained is the share of the variation of the scores' ranks that lies between groups of a "
    "parameter's values (its choices, or up to four groups of equal size), less what chance "
    "explains, with its 95 % interval; the surest come first, by the interval's lower end. ρ is "
    "the rank correlation with a better score. The search looked where it expected good scores, "
    "so this shows association, not causation."
)


def parameter_rows(varied: Sequence[Parameter]) -> list[Row]:
    """Return a row per parameter with a cell per objective, the surest first."""

    def surest(parameter: Parameter) -> tuple[float, float]:
        return max((a.low, a.explained or 0.0) for a in parameter.associations)

    return [
        {
            "name": parameter.name,
            "n": max(a.n for a in parameter.associations),
            "cells": [_explained(a) for a in parameter.associations],
        }
        for parameter in sorted(varied, key=surest, reverse=True)
    ]


def _explained(found: Association) -> Row:
    if found.explained is None:
        few = f"fewer than {MIN_TRIALS} trials" if found.n < MIN_TRIALS else "no difference"
        return {"sort": "", "value": "", "interval": few}
    rank = "" if found.rank is None else f", ρ {found.rank:+.2f}".replace("-", "−")
    return {
        "sort": found.explained,
        "value": f"{100 * found.explained:.0f}",
        "interval": f"{100 * found.low:.0f} to {100 * found.high:.0f}{rank}",
    }


def trial_rows(summary: Summary) -> list[Row]:
    """Return a row per measured trial; of more than `MAX_ROWS`, those with the best mean rank."""
    measured = measured_trials(summary)
    objectives = summary.result.objectives
    if len(measured) > MAX_ROWS:
        losses = search_losses(goals(objectives), measured)
        known = np.nan_to_num(losses, nan=math.inf)
        ranks = np.mean([mean_ranks(column) for column in known.T], axis=0)
        best = np.sort(np.argsort(ranks, kind="stable")[:MAX_ROWS])
        measured = [measured[row] for row in best.tolist()]
    return [_trial_row(trial, summary) for trial in measured]


def trials_left(summary: Summary) -> str:
    """Say which trials the table lacks; empty if none."""
    n = len(measured_trials(summary))
    if n <= MAX_ROWS:
        return ""
    return (
        f"The {MAX_ROWS} of {n} with the best mean rank over the goals; automerge export-trials "
        "writes all."
    )


def _trial_row(trial: TrialResult, summary: Summary) -> Row:
    cells = []
    for o in summary.result.objectives:
        found, unit = trial.search_estimate(o), summary.units[o.name]
        cells.append(
            {"sort": "", "value": ""}
            if found is None
            else {"sort": found.value, "value": unit.value(found.value)}
        )
    return {
        "name": trial.trial.name,
        "number": trial.trial.number,
        "method": trial.trial.recipe.methods_in_words,
        "cells": cells,
    }
