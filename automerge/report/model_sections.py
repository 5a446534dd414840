"""What went into each merge on the front, as values for the template."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import yaml

from automerge.report.choice import choose, ranked
from automerge.report.commands import export_command, score_commands, use_commands
from automerge.report.gains import Gains, gains
from automerge.report.summary import Member, Summary
from automerge.report.weights import KnobRow, knob_rows, layers_in_words
from automerge.store.result import MODELS, StudyResult

Row: TypeAlias = dict[str, object]


def model_sections(summary: Summary) -> list[Row]:
    """Return a section per merge on the front, in the order of their ranks."""
    rows = {m.name: knob_rows(m.trial.trial.recipe, summary.result.n_layers) for m in summary.front}
    largest: dict[str, float] = {}
    for row in (row for found in rows.values() for row in found):
        known = [abs(value) for value in row.values if value is not None]
        largest[row.knob] = max([largest.get(row.knob, 0.0), *known])
    taken = choose(summary)
    take = taken.name if taken is not None and taken.beats_parent else None
    return [
        _model(m, rows[m.name], largest, summary.result)
        | {"index": summary.members.index(m), "take": m.name == take}
        for m in ranked(summary)
    ]


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
        "use": use_commands(member.trial.trial.number, folder is not None),
        "command": _reproduce(member, result),
    }


def _reproduce(member: Member, result: StudyResult) -> str:
    """Return the commands that score a merge on the test items, once it is exported."""
    if not _tested(member):
        return ""
    folder = member.trial.model_dir
    if folder is not None:
        return score_commands(result, folder)
    exported = export_command(member.trial.trial.number)
    return f"{exported}\n{score_commands(result, f'{MODELS}/{member.name}')}"


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


def recipe_yaml(plain: Mapping[str, object]) -> str:
    """Format a recipe as YAML, in its own order."""
    return yaml.safe_dump(
        dict(plain), sort_keys=False, default_flow_style=None, allow_unicode=True, width=88
    )
