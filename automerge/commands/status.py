"""`automerge status`: a study's progress."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np

from automerge import pareto
from automerge.objective import estimates, losses, searched
from automerge.report.course import prospect
from automerge.report.spending import in_words, spending
from automerge.store.read_result import generated_by, open_study, study_result
from automerge.trial import Failed, Measured

if TYPE_CHECKING:
    from rich.console import Console

MAX_ROWS = 12
WIDTH = 80
"""Columns of a line."""


def study_status(run: Path) -> dict[str, object]:
    """Return counts, state, failures, costs and the front so far, as JSON-ready values.

    `front` is the selected front once there is one, with select scores; before that, the
    trials nondominated on search items. `spent` is in seconds of workers' time; `cost` and
    `prospect`, what more budget would bring, are sentences.
    """
    with open_study(run) as store:
        study, result = store.study, study_result(run, store)
        objectives, current = searched(study.begun.inputs.objectives), study.current
        counts = store.counts()
        budget, done = current.budget, counts["measured"] + counts["failed"]
        names = {trial.number: trial.name for trial in store.trials()}
        search = store.outcomes("search")
        chosen = study.decided.front
        part = "search" if chosen is None else "select"
        select = {
            found.trial.number: found.outcomes["select"]
            for found in result.trials
            if "select" in found.outcomes
        }
        outcomes = search if chosen is None else select
        values = {
            number: estimates(objectives, outcome.scores)
            for number, outcome in outcomes.items()
            if isinstance(outcome, Measured) and not outcome.left_out
        }
        if chosen is None and values:
            rows = np.array([losses(objectives, found) for found in values.values()])
            keep = pareto.nondominated(rows)
            chosen = tuple(number for number, kept in zip(values, keep, strict=True) if kept)
        return {
            "run": str(run),
            "study": current.name,
            "state": result.state,
            "budget": budget,
            "max_items": current.max_items,
            "max_time": current.max_time,
            "patience": current.patience,
            **counts,
            "remaining": None if budget is None else max(0, budget - done),
            "selected": len(select),
            "tested": sum("test" in found.outcomes for found in result.trials),
            "generated": generated_by(search.values()),
            "spent": None if (spent := spending(result)) is None else asdict(spent),
            "cost": in_words(result),
            "prospect": prospect(result),
            "front_items": part,
            "front": [
                {"name": names[n], "trial": n, "scores": {k: v.value for k, v in values[n].items()}}
                for n in chosen or ()
                if n in values
            ],
            "failures": [
                {
                    "trial": number,
                    "name": names[number],
                    "kind": outcome.kind,
                    "reason": outcome.reason,
                    "traceback": outcome.traceback,
                }
                for number, outcome in search.items()
                if isinstance(outcome, Failed)
            ],
        }


def print_status(status: dict[str, object], console: Console) -> None:
    """Print a status as text."""
    from rich.table import Table
    from rich.text import Text

    budget = "" if status["budget"] is None else f" (budget {status['budget']})"
    console.print(
        Text(
            f"{status['study']}: {status['state']}. {status['measured']} trials measured{budget}, "
            f"{status['failed']} failed; "
            f"{status['selected']} scored on select items, {status['tested']} on test items."
        )
    )
    generated = status["generated"]
    assert isinstance(generated, tuple)
    if generated:
        console.print(Text(f"Generator of answers: {'; '.join(generated)}."))
    front = status["front"]
    assert isinstance(front, list)
    if front:
        table = Table(title=f"nondominated on {status['front_items']} items, parents included")
        table.add_column("model")
        for name in front[0]["scores"]:
            table.add_column(Text(name), justify="right")
        for member in front[:MAX_ROWS]:
            scores = (f"{value:.3f}" for value in member["scores"].values())
            table.add_row(Text(member["name"]), *scores)
        console.print(table)
        if len(front) > MAX_ROWS:
            console.print(f"… and {len(front) - MAX_ROWS} more")
    for line in prospects(str(status["cost"]), str(status["prospect"])):
        console.print(Text(line))
    failures = status["failures"]
    assert isinstance(failures, list)
    for failure in failures[:MAX_ROWS]:
        console.print(Text(f"{failure['name']} failed ({failure['kind']}): {failure['reason']}"))
    tracebacks = [failure for failure in failures if failure["traceback"]]
    if tracebacks:
        console.print(Text(f"last traceback ({tracebacks[-1]['name']}):"))
        console.print(Text(tracebacks[-1]["traceback"]))


def prospects(cost: str, prospect: str) -> list[str]:
    """Return what a study cost, and what more budget would bring, as lines that fit 80 columns."""
    texts = [f"Cost: {cost}" if cost else "", prospect]
    return [line for text in texts for line in wrap(text, WIDTH, break_on_hyphens=False) if text]
