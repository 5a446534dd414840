"""The report's sections as values for the template, with texts and numbers formatted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import yaml

from automerge.estimation import Difference, Interval
from automerge.objective import Objective
from automerge.recipe import DEFAULT
from automerge.report.charts import MAX_TRIALS, measured_trials
from automerge.report.commands import score_commands
from automerge.report.compare import verdict
from automerge.report.course import Stage, prospect, stages
from automerge.report.directions import directions
from automerge.report.followed import Followed, followed
from automerge.report.gains import Gains, gains
from automerge.report.importance import Importance, importance
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
from automerge.report.spending import in_words
from automerge.report.summary import Member, Summary
from automerge.report.units import Unit
from automerge.report.weights import KnobRow, knob_rows, layers_in_words
from automerge.store.result import StudyResult, count
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


def sections(summary: Summary) -> Row:
    """Return every value that the template needs."""
    result = summary.result
    measured = measured_trials(summary)
    parameters = {name for t in measured for name in t.trial.params or {}}
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
        "rows": [_row(m, summary) for m in summary.members],
        "constraints": _constraints(summary),
        "optimism": _optimism(summary),
        "hypervolume": _hypervolume(summary),
        "models": _models(summary),
        "progress": bool(measured),
        "progress_text": _progress_text(summary, len(measured)),
        "prospect": prospect(result),
        "stages": [_stage(row) for row in stages(result)] if result.front else [],
        "directions": _directions(summary),
        "important": [_important(row) for row in importance(result)[:MAX_IMPORTANT]],
        "parameters": len(parameters),
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


def recipe_yaml(plain: Mapping[str, object]) -> str:
    """Format a recipe as YAML, in its own order."""
    return yaml.safe_dump(
        dict(plain), sort_keys=False, default_flow_style=None, allow_unicode=True, width=88
    )


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
        "head of the column; coloured if the interval of the difference excludes zero. Below the "
        "name, how often the model is nondominated when test items are bootstrapped."
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


def _columns(summary: Summary) -> list[tuple[str, str]]:
    columns = [
        (o.name + (", %" if summary.units[o.name].percent else ""), _column_note(o, summary))
        for o in summary.result.objectives
    ]
    if summary.means is None or len(summary.result.goals) == 1:
        return columns
    return [("mean, %", f"Δ {summary.means.best_parent}"), *columns]


def _column_note(objective: Objective, summary: Summary) -> str:
    lower = ["lower is better"] if objective.direction == "minimize" else []
    best = summary.best_parent.get(objective.name)
    return ", ".join([*lower, *([f"Δ {best}"] if best and summary.part == "test" else [])])


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
        return {"value": "no score", "interval": "", "delta": "", "verdict": ""}
    return {
        "value": unit.value(score.value),
        "interval": f"{unit.value(score.low)} to {unit.value(score.high)}",
        "delta": "" if versus is None else f"Δ {unit.difference(versus.difference)}",
        "verdict": "" if versus is None else verdict(versus, objective),
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


def _models(summary: Summary) -> list[Row]:
    rows = {m.name: knob_rows(m.trial.trial.recipe, summary.result.n_layers) for m in summary.front}
    largest: dict[str, float] = {}
    for row in (row for found in rows.values() for row in found):
        known = [abs(value) for value in row.values if value is not None]
        largest[row.knob] = max([largest.get(row.knob, 0.0), *known])
    return [_model(m, rows[m.name], largest, summary.result) for m in summary.front]


def _model(
    member: Member, rows: Sequence[KnobRow], largest: Mapping[str, float], result: StudyResult
) -> Row:
    recipe = member.trial.trial.recipe
    knobs: dict[str, list[Row]] = {}
    for row in rows:
        above = knobs.setdefault(row.knob, [])
        heat = _heat_row(row, largest[row.knob] or 1.0)
        above.append(heat | {"first": not above or above[-1]["source"] != heat["source"]})
    found = gains(member.trial, result.n_layers)
    if found is not None and found.holds:
        knobs["gain over equal weights, % of the loss there"] = _gain_rows(found.rows)
    folder = member.trial.model_dir
    last = sum(piece.n_layers for piece in recipe.slices) or result.n_layers
    return {
        "name": member.name,
        "knee": member.knee,
        "method": recipe.methods_in_words,
        "layers": layers_in_words(recipe),
        "last_layer": last - 1,
        "folder": folder or "",
        "knobs": [{"name": knob, "rows": own} for knob, own in knobs.items()],
        "gain": "" if found is None else _gain_text(found),
        "recipe": recipe_yaml(recipe.plain()),
        "command": _command(result, folder) if folder and _tested(member) else "",
    }


def _gain_text(found: Gains) -> str:
    """Say how much of what was measured slopes explain."""
    measured, explained = (_percent(share) for share in (found.measured, found.explained))
    change = "lower" if found.measured >= 0 else "higher"
    said = (
        "Of the smooth losses behind the goals, on the same search items: with these weights the "
        f"mean is {measured.lstrip('+−')} % {change} than with equal weights"
    )
    if not found.holds:
        return f"{said}. Slopes on the way add up to {explained} %, which does not explain it."
    return (
        f"{said}; the map, from slopes on the way, adds up to {explained} %. Above zero: this "
        "weight lowered the loss there."
    )


def _percent(share: float) -> str:
    return f"{100 * share:+.2f}".replace("-", "−")


def _gain_rows(rows: Sequence[KnobRow]) -> list[Row]:
    """Return rows of gains in percent, whose ranges are their sums."""
    percent = [replace(row, values=tuple(100 * (v or 0.0) for v in row.values)) for row in rows]
    largest = max(abs(v or 0.0) for row in percent for v in row.values) or 1.0
    found: list[Row] = []
    for row in percent:
        heat = _heat_row(row, largest)
        total = f"{math.fsum(v or 0.0 for v in row.values):+.2f}".replace("-", "−")
        first = not found or found[-1]["source"] != heat["source"]
        found.append(heat | {"range": total, "first": first})
    return found


def _command(result: StudyResult, folder: str) -> str:
    return f"# in the run folder\n{score_commands(result, folder)}"


def _tested(member: Member) -> bool:
    return any(parts["test"] is not None for parts in member.scores.values())


def _heat_row(row: KnobRow, largest: float) -> Row:
    source = row.source or "all sources"
    known = [value for value in row.values if value is not None]
    low, high = min(known), max(known)
    return {
        "source": source,
        "selector": row.selector,
        "label": f"{source} {row.selector}".strip(),
        "range": _knob(low) if low == high else f"{_knob(low)} to {_knob(high)}",
        "cells": [
            {
                "sign": "negative" if value is not None and value < 0 else "positive",
                "strength": f"{abs(value or 0.0) / largest:.3f}",
                "text": f"layer {layer}: {'not merged' if value is None else f'{value:.3g}'}",
            }
            for layer, value in enumerate(row.values)
        ],
    }


def _knob(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _progress_text(summary: Summary, n: int) -> str:
    if len(summary.result.goals) == 1:
        what = "The best estimate so far"
    else:
        what = (
            "Hypervolume of the estimates so far: the dominated share of the box between the best "
            "value of each objective and a point just worse than the worst trial"
        )
    return f"{what}, over {count(n, 'model')} measured on search items. Part of the rise is chance."
