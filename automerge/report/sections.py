"""The report's sections as values for the template, with texts and numbers formatted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from automerge.estimation import Difference, Interval
from automerge.objective import Objective
from automerge.recipe import DEFAULT
from automerge.report.charts import MAX_TRIALS
from automerge.report.choice import ranked
from automerge.report.compare import verdict
from automerge.report.course import Stage, prospect, stages
from automerge.report.directions import directions
from automerge.report.followed import Followed, followed
from automerge.report.importance import Importance, importance
from automerge.report.model_sections import model_sections
from automerge.report.parameters import Parameter
from automerge.report.preferences import preferences
from automerge.report.run_sections import (
    duration,
    elapsed,
    failed,
    failures,
    objective_row,
    phases,
    study_facts,
    time_parts,
)
from automerge.report.search_tables import (
    PARAMETERS_TEXT,
    parameter_rows,
    trial_rows,
    trials_left,
)
from automerge.report.searched import measured_trials
from automerge.report.spending import in_words
from automerge.report.summary import Member, Summary
from automerge.report.units import Unit
from automerge.store.result import count
from automerge.trial import Part

Row: TypeAlias = dict[str, object]

PART_TEXTS: Mapping[Part, str] = {
    "test": "Scores on sealed test items, which neither the search nor the selection saw.",
    "select": "Scores on select items, which are optimistic; the sealed test was not scored yet.",
    "search": "Estimates on search items, which are optimistic for models chosen by them.",
}
MAX_IMPORTANT = 10
"""Rows of what mattered by slopes."""
_KINDS = {
    "front": "front",
    "parent": "parent",
    "base": "base",
    "baseline": "uniform average",
}


def sections(summary: Summary, varied: Sequence[Parameter]) -> Row:
    """Return every value that the template needs.

    `varied` are the parameters of the search, as `automerge.report.parameters` finds them.
    """
    result = summary.result
    measured = measured_trials(summary)
    kinds = {m.kind for m in summary.members}
    return {
        "scored": any(s[summary.part] for m in summary.members for s in m.scores.values()),
        "forest": any(m.versus_parent for m in summary.members if m.kind in ("front", "baseline")),
        "facts": _facts(summary),
        "part_text": PART_TEXTS[summary.part],
        "trials_text": _trials_text(len(measured)),
        "legend_kinds": [(kind, text) for kind, text in _KINDS.items() if kind in kinds],
        "knee": any(m.knee for m in summary.members),
        "numbers_text": _numbers_text(summary),
        "columns": _columns(summary),
        "rows": _rows(summary),
        "units": summary.units,
        "merges": preferences(summary) is not None,
        "constraints": _constraints(summary),
        "optimism": _optimism(summary),
        "hypervolume": _hypervolume(summary),
        "models": model_sections(summary),
        "progress": bool(measured),
        "progress_text": _progress_text(summary, len(measured)),
        "prospect": prospect(result),
        "stages": [_stage(row) for row in stages(result)] if result.front else [],
        "directions": _directions(summary),
        "important": [_important(row) for row in importance(result)[:MAX_IMPORTANT]],
        "parameters": parameter_rows(varied),
        "parameters_text": PARAMETERS_TEXT,
        "trial_rows": trial_rows(summary),
        "trial_titles": [title for title, _ in _objective_columns(summary)],
        "trials_left": trials_left(summary),
        "followed": (rows := [_followed(row) for row in followed(result)]),
        "answers": any(row["answers"] for row in rows),
        "failures": failures(result),
        "failures_text": f"{failed(result)} of {count(len(result.trials), 'model')} failed.",
        "cost": in_words(result),
        "phases": phases(result),
        "time_parts": time_parts(result),
        "study_facts": study_facts(result),
        "objective_rows": [objective_row(o, result) for o in result.objectives],
    }


def _facts(summary: Summary) -> list[tuple[str, str]]:
    result = summary.result
    facts = [
        ("merges on the front", str(len(summary.front))),
        ("models tried", str(len(result.trials))),
        ("failed", str(failed(result))),
        ("budget", result.limits),
        ("sampler", result.sampler),
    ]
    if (seconds := elapsed(result)) is not None:
        facts.append(("took", duration(seconds)))
    return facts


def _trials_text(n: int) -> str:
    sample = f" ({MAX_TRIALS} of {n} shown)" if n > MAX_TRIALS else ""
    return f"tried in the search, by its estimates{sample}"


def _numbers_text(summary: Summary) -> str:
    text = PART_TEXTS[summary.part]
    if summary.part != "test":
        return f"{text} Each with its 95 % interval."
    return (
        f"{text} Each with its 95 % interval, then the difference to the best parent named in the "
        "head of the column, with a star if its interval excludes zero. The first merge is the one "
        "to take; the others follow by their means on select items. Below the name, how often the "
        "model is nondominated when test items are bootstrapped."
    )


def _constraints(summary: Summary) -> list[Row]:
    """Return a row per constraint, with a cell per merge on the front."""
    units = summary.units
    return [
        {
            "text": str(constraint),
            "cells": [
                {
                    "name": m.name,
                    "value": units[constraint.objective].value(kept.value),
                    "bound": units[constraint.objective].value(kept.bound),
                    "verdict": kept.verdict,
                }
                for m in summary.front
                for kept in m.kept
                if kept.constraint == constraint
            ],
        }
        for constraint in summary.result.constraints
    ]


def _objective_columns(summary: Summary) -> list[tuple[str, str]]:
    return [
        (o.name + (", %" if summary.units[o.name].percent else ""), _column_note(o, summary))
        for o in summary.result.objectives
    ]


def _columns(summary: Summary) -> list[tuple[str, str]]:
    columns = _objective_columns(summary)
    if summary.means is None or len(summary.result.goals) == 1:
        return columns
    return [("mean, %", f"Δ {summary.means.best_parent}"), *columns]


def _column_note(objective: Objective, summary: Summary) -> str:
    notes = ["lower is better"] if objective.direction == "minimize" else []
    notes += ["held out"] if objective.held_out else []
    best = summary.best_parent.get(objective.name)
    return ", ".join([*notes, *([f"Δ {best}"] if best and summary.part == "test" else [])])


def _rows(summary: Summary) -> list[Row]:
    """Return the merges in the order of their ranks, then the models that went in."""
    rest = [member for member in summary.members if member.kind != "front"]
    return [_row(member, summary) for member in (*ranked(summary), *rest)]


def _row(member: Member, summary: Summary) -> Row:
    objectives = summary.result.objectives
    cells = []
    for o in objectives:
        versus = member.versus_parent.get(o.name)
        score = member.scores[o.name][summary.part]
        cells.append(_cell(o, summary.units[o.name], score, versus.difference if versus else None))
    means = summary.means
    if means is not None and len(summary.result.goals) > 1:
        o = summary.result.goals[0]
        score, difference = means.scores.get(member.name), means.versus.get(member.name)
        cells.insert(0, _cell(o, summary.units[o.name], score, difference))
    kind = _KINDS[member.kind] + (
        ", on the front" if member.on_front and member.kind != "front" else ""
    )
    return {
        "index": summary.members.index(member),
        "name": member.name,
        "kind": kind + (", knee" if member.knee else "") + _likely(member, summary),
        "cells": cells,
    }


def _likely(member: Member, summary: Summary) -> str:
    likely = summary.likely.get(member.name)
    return "" if likely is None else f", undominated {100 * likely:.0f} %"


def _cell(
    objective: Objective, unit: Unit, score: Interval | None, versus: Difference | None
) -> Row:
    if score is None:
        return {"value": "no score", "interval": "", "delta": "", "verdict": "", "sort": ""}
    found = "" if versus is None else verdict(versus, objective)
    star = " *" if found in ("better", "worse") else ""
    return {
        "sort": score.value,
        "value": unit.value(score.value),
        "interval": "" if unit.exact else f"{unit.value(score.low)} to {unit.value(score.high)}",
        "delta": "" if versus is None else f"Δ {unit.difference(versus.difference)}{star}",
        "verdict": found,
    }


def _optimism(summary: Summary) -> list[Row]:
    rows: list[Row] = []
    for name, found in summary.optimism.items():
        unit = summary.units[name]
        scores = [m.scores[name] for m in summary.front]
        both = [(s, t) for p in scores if (s := p["search"]) and (t := p["test"])]
        rows.append(
            {
                "name": name,
                "search": unit.value(math.fsum(s.value for s, _ in both) / len(both)),
                "test": unit.value(math.fsum(t.value for _, t in both) / len(both)),
                "value": unit.difference(found.value),
                "stderr": unit.value(found.stderr),
            }
        )
    return rows


def _hypervolume(summary: Summary) -> list[tuple[str, str]]:
    if (found := summary.hypervolume) is None:
        return []
    shares = [
        ("front", found.front),
        ("parents and base", found.parents),
        ("uniform average", found.uniform),
        ("sweep of linear merges", found.sweep),
    ]
    return [(name, f"{100 * share:.1f} %") for name, share in shares if share is not None]


def _followed(row: Followed) -> Row:
    rank = "too few" if row.rank is None else f"{row.rank:.2f}".replace("-", "−")
    answers = ", ".join(f"{count(n, 'right answer')} of {name}" for name, n in row.answers.items())
    return {"name": row.objective, "n": row.n_trials, "rank": rank, "answers": answers}


def _stage(row: Stage) -> Row:
    tokens = f"{row.tokens:,}" if row.tokens else ""
    return {"name": row.name, "trials": row.trials, "tokens": tokens, "front": row.front}


def _directions(summary: Summary) -> list[Row]:
    """Return a row per direction; gains in points where all goals have that unit."""
    points = summary.means is not None
    found = directions(summary.result, points)
    noun = " points" if points else " % of a range"
    return [
        {
            "name": row.name,
            "trials": row.trials,
            "tokens": f"{row.tokens:,}" if row.tokens else "",
            "front": row.front,
            "gain": f"{_signed(100 * row.gain)}{noun}",
            "interval": f"{_signed(100 * row.low)} to {_signed(100 * row.high)}",
            "verdict": "better" if row.low > 0 else "worse" if row.high < 0 else "unclear",
        }
        for row in found
    ]


def _important(row: Importance) -> Row:
    owner = f"{row.source} " if row.source else ""
    selector = "" if row.selector == DEFAULT else f", {row.selector}"
    return {
        "name": f"{owner}{row.knob}{selector}",
        "trials": row.trials,
        "effect": f"{100 * row.effect:.2f} %",
        "interval": f"{100 * row.low:.2f} to {100 * row.high:.2f}",
    }


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def _progress_text(summary: Summary, n: int) -> str:
    if len(summary.result.goals) == 1:
        what = "The best estimate so far"
    else:
        what = (
            "Hypervolume of the estimates so far: the dominated share of the box between the best "
            "value of each objective and a point just worse than the worst trial"
        )
    return f"{what}, over {count(n, 'model')} measured on search items. Part of the rise is chance."
