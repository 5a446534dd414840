"""`automerge pick`: the merge that fits somebody's preferences, and what to do with it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from automerge.errors import ConfigError, Fault
from automerge.report.pick import Picked, pick
from automerge.report.study import Study, load_study
from automerge.report.summary import Member, Summary
from automerge.store.result import count
from automerge.text.say import say

if TYPE_CHECKING:
    from rich.console import Console


def print_pick(run: Path, prefer: str, at_least: Sequence[str], console: Console) -> None:
    """Pick a merge, and print its test scores and the commands that use it."""
    weights = _numbers([part for part in prefer.split(",") if part.strip()], "--prefer")
    bounds = _numbers(at_least, "--min")
    study = load_study(run)
    found = pick(study.summary, weights, bounds)
    for line in _lines(study, found, bool(bounds)):
        say(console, line)


def _lines(study: Study, found: Picked, bounded: bool) -> list[str]:
    member, summary = found.member, study.summary
    trial = member.trial.trial
    goal = summary.result.goals[0].name
    utility = f"{found.utility:.3f}" if found.rescaled else summary.units[goal].value(found.utility)
    what = (
        f"weighted mean {utility} of 1, the front's worst being 0 and its best 1"
        if found.rescaled
        else f"weighted mean {utility} %"
    )
    run = shlex.quote(str(study.run))
    return [
        f"{member.name} ({trial.recipe.methods_in_words}): {what}, the highest on select items of "
        f"{count(found.left, 'merge')} on the front{' within the bounds' if bounded else ''}.",
        "On test items, with 95 % intervals:" if summary.part == "test" else "Not tested yet.",
        *(_score(summary, member, name) for name in member.scores if summary.part == "test"),
        f"export:  automerge export {run} --trial {trial.number}"
        if member.trial.model_dir is None
        else f"folder:  {study.run / member.trial.model_dir}",
    ]


def _score(summary: Summary, member: Member, name: str) -> str:
    unit, test = summary.units[name], member.scores[name]["test"]
    if test is None:
        return f"  {name}: no score"
    percent = " %" if unit.percent else ""
    text = f"  {name}: {unit.value(test.value)}{percent}"
    if test.half_width > 0:
        text += f" ({unit.value(test.low)} to {unit.value(test.high)})"
    versus = member.versus_parent.get(name)
    if versus is None:
        return text
    d = versus.difference
    return (
        f"{text}, {unit.difference(d.difference)}{unit.noun} ({unit.difference(d.low)} to "
        f"{unit.difference(d.high)}) against {versus.against}"
    )


def _numbers(texts: Sequence[str], option: str) -> dict[str, float]:
    """Read NAME=NUMBER texts."""
    found, faults = {}, []
    for text in texts:
        name, _, number = text.partition("=")
        try:
            found[name.strip()] = float(number)
        except ValueError:
            faults.append(Fault(f"{option} {text.strip()!r}: write NAME=NUMBER, such as maths=2"))
    if faults:
        raise ConfigError(faults)
    return found
