"""`automerge status`: a study's progress."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np

from automerge import pareto
from automerge.commands.progress import duration
from automerge.objective import estimates, losses, searched
from automerge.report.conclusion import conclusion
from automerge.report.course import prospect
from automerge.report.spending import in_words, spending
from automerge.report.standing import shown, standing
from automerge.report.summary import summarise
from automerge.store.read_result import generated_by, open_study, study_result
from automerge.store.result import StudyResult
from automerge.store.store import Store
from automerge.trial import Failed, Measured

if TYPE_CHECKING:
    from rich.console import Console

MAX_ROWS = 12
PACE_OF = 20
"""How many of the last trials the pace is taken from."""
WIDTH = 80
"""Columns of a line."""


def study_status(run: Path) -> dict[str, object]:
    """Return counts, state, failures, costs and the front so far, as JSON-ready values.

    `front` is the selected front once there is one, with select scores; before that, the
    trials nondominated on search items. `spent` is in seconds of workers' time; `cost`, `prospect`
    (what more budget would bring) and `standing` (the best mean against the best parent's) are
    sentences, and so is `verdict`, which model to take of a finished study. `times` has ISO 8601
    times, and the pace of the last trials.
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
        scored = {n: [v.value for v in found.values()] for n, found in values.items()}
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
            "batched": result.batched,
            "verdict": conclusion(summarise(result))[0] if result.state == "finished" else None,
            "spent": None if (spent := spending(result)) is None else asdict(spent),
            "cost": in_words(result),
            "prospect": prospect(result),
            "times": asdict(_times(store, result, budget, done)),
            "machine": result.provenance.machine,
            "standing": standing(
                objectives,
                [
                    (names[n], row)
                    for n, row in scored.items()
                    if n not in {*result.parents, result.base}
                ],
                [(names[n], row) for n, row in scored.items() if n in result.parents],
            ),
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


@dataclass(frozen=True)
class Times:
    """When a study was last heard of, and how fast it goes.

    Attributes:
        started: when it began, in ISO 8601.
        finished: when it finished; None before that.
        last_result: when the last trial of the search was told to the sampler; None before that.
        per_minute: trials a minute over the last `PACE_OF` ones; None where they say nothing.
        search_left_s: seconds to the end of the search at that pace, while it runs; None if it does
            not, or has no number of trials as its budget.
    """

    started: str
    finished: str | None
    last_result: str | None
    per_minute: float | None
    search_left_s: float | None


def _times(store: Store, result: StudyResult, budget: int | None, done: int) -> Times:
    told = sorted(at for _, at in store.times().values() if at is not None)
    recent = told[-PACE_OF:]
    span = recent[-1] - recent[0] if len(recent) > 2 else 0.0
    per_second = (len(recent) - 1) / span if span > 0 else None
    left = None if budget is None else max(0, budget - done)
    running = result.state == "running"
    return Times(
        started=result.provenance.started,
        finished=result.provenance.finished,
        last_result=None if not told else _iso(told[-1]),
        per_minute=None if per_second is None else 60 * per_second,
        search_left_s=left / per_second if running and left is not None and per_second else None,
    )


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _in_words(times: Times) -> str:
    parts = [f"started {times.started[:16].replace('T', ' ')}"]
    if times.finished is not None:
        parts.append(f"finished {times.finished[:16].replace('T', ' ')}")
    elif times.last_result is not None:
        ago = datetime.now(UTC) - datetime.fromisoformat(times.last_result)
        parts.append(f"last trial {duration(max(0.0, ago.total_seconds()))} ago")
    if times.per_minute is not None:
        parts.append(f"{times.per_minute:.3g} trials a minute")
    if times.search_left_s is not None:
        parts.append(f"about {duration(times.search_left_s)} of the search left")
    return f"{', '.join(parts)}."


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
    times = status["times"]
    assert isinstance(times, dict)
    console.print(Text(f"On {status['machine']}: {_in_words(Times(**times))}"))
    if status["standing"]:
        console.print(Text(f"{status['standing']} on {status['front_items']} items"))
    generated = status["generated"]
    assert isinstance(generated, tuple)
    if generated:
        console.print(Text(f"Generator of answers: {'; '.join(generated)}."))
    batched = status["batched"]
    assert isinstance(batched, tuple)
    if batched:
        console.print(Text(f"Batches: {'; '.join(batched)}."))
    front = status["front"]
    assert isinstance(front, list)
    if front:
        table = Table(title=f"nondominated on {status['front_items']} items, parents included")
        table.add_column("model")
        for name in front[0]["scores"]:
            table.add_column(Text(name), justify="right")
        for member in front[:MAX_ROWS]:
            table.add_row(Text(member["name"]), *map(shown, member["scores"].values()))
        console.print(table)
        if len(front) > MAX_ROWS:
            console.print(f"… and {len(front) - MAX_ROWS} more")
    if status["verdict"]:
        console.print(Text(str(status["verdict"])))
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
