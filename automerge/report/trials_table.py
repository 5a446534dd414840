"""Every trial of a study as a flat row, for notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from automerge.objective import Estimate, Objective, estimate
from automerge.store.result import StudyResult, TrialResult
from automerge.trial import PARTS, Part

Cell: TypeAlias = str | int | float | bool | None
Row: TypeAlias = dict[str, Cell]


def trials_table(result: StudyResult) -> list[Row]:
    """Return one row per trial, by number, all with the same columns.

    The columns are `number`, `name`, `origin`, `state` ("measured", "failed", or "waiting" for one
    without a result), `method`, `failure` (the reason), `params.NAME` for each parameter (None if
    the trial does not have it), and `PART.OBJECTIVE.value`, `.stderr` and `.n` for each part of the
    split and objective (None if nothing was measured). On search items, these are the search's own
    estimates, which proposals were based on.
    """
    names = sorted({name for found in result.trials for name in found.trial.params or ()})
    return [_row(found, names, result.objectives) for found in result.trials]


def _row(found: TrialResult, names: list[str], objectives: tuple[Objective, ...]) -> Row:
    trial, failure = found.trial, found.failure
    params: Mapping[str, Cell] = trial.params or {}
    row: Row = {
        "number": trial.number,
        "name": trial.name,
        "origin": trial.origin,
        "state": "waiting" if not found.outcomes else "measured" if failure is None else "failed",
        "method": trial.recipe.methods_in_words,
        "failure": None if failure is None else failure[1].reason,
    }
    row |= {f"params.{name}": params.get(name) for name in names}
    for part in PARTS:
        for objective in objectives:
            value = _estimate(found, part, objective)
            start = f"{part}.{objective.name}"
            row[f"{start}.value"] = None if value is None else value.value
            row[f"{start}.stderr"] = None if value is None else value.stderr
            row[f"{start}.n"] = None if value is None else value.n
    return row


def _estimate(found: TrialResult, part: Part, objective: Objective) -> Estimate | None:
    if part == "search":
        return found.search_estimate(objective)
    scores = found.scores(part, objective.name)
    return None if scores is None else estimate(scores, objective.aggregation)
