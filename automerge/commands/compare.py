"""`automerge compare`: two studies side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from automerge.errors import StateError
from automerge.report.beside import Beside, Paired, beside
from automerge.report.study import Study, load_study
from automerge.report.summary import Member
from automerge.report.table import short_names
from automerge.store.result import count
from automerge.text.say import say

if TYPE_CHECKING:
    from rich.console import Console

MAX_ROWS = 6


def print_comparison(one: Path, other: Path, console: Console) -> None:
    """Print both fronts, and how the models they recommend differ on the items that both tested.

    Raises:
        StateError: a folder contains no study, or one of the two is not tested yet.
    """
    studies = (load_study(one), load_study(other))
    found = beside(studies[0].summary, studies[1].summary)
    if found is None:
        untested = [str(s.run) for s in studies if s.summary.part != "test" or not s.summary.front]
        raise StateError(
            f"no merge on the front of {' and '.join(untested)} has been tested; finish the search "
            "first (automerge status says how far it is)"
        )
    _print_fronts(studies, found, console)
    for line in _lines(studies, found):
        say(console, line)


def _print_fronts(studies: tuple[Study, Study], found: Beside, console: Console) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from automerge.text.terminal import harmless

    names = list(dict.fromkeys(o.name for s in studies for o in s.result.objectives))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("model", "method", *short_names(names)):
        table.add_column(
            Text(harmless(title)), justify="left" if title in ("model", "method") else "right"
        )
    for study, chosen in zip(studies, found.models, strict=True):
        table.add_row(Text(harmless(str(study.run)), style="bold"))
        front = sorted(study.summary.front, key=lambda member: member.name != chosen)
        for member in front[:MAX_ROWS]:
            cells = [_score(study, member, name) for name in names]
            method = member.trial.trial.recipe.methods_in_words
            table.add_row(*(Text(harmless(text)) for text in (f"  {member.name}", method, *cells)))
        if (more := len(front) - MAX_ROWS) > 0:
            table.add_row(Text(f"  and {more} more", style="dim"))
    console.print(table)


def _score(study: Study, member: Member, name: str) -> str:
    score = member.scores.get(name, {}).get("test")
    return "" if score is None else study.summary.units[name].value(score.value)


def _lines(studies: tuple[Study, Study], found: Beside) -> list[str]:
    one, other = (str(study.run) for study in studies)
    lines = [
        f"Scores on sealed test items. {found.models[0]} of {one} minus {found.models[1]} of "
        f"{other}, on the items that both studies tested, with 95 % intervals:"
    ]
    lines += [_difference(studies[0], paired) for paired in found.paired]
    lines += [f"  {name}: not compared, {why}" for name, why in found.left_out.items()]
    seen = [paired.objective for paired in found.paired if paired.seen]
    if seen:
        lines.append(
            f"On {', '.join(seen)}, one of the studies searched or selected on some of these "
            "items, so its model's scores on them are optimistic."
        )
    if found.hypervolume is None:
        lines.append("Hypervolume: not compared; it needs the same goals and the same test items.")
    else:
        first, second = found.hypervolume
        lines.append(
            f"Hypervolume (share of one box around both fronts): {first:.3f} and {second:.3f}."
        )
    return lines


def _difference(study: Study, paired: Paired) -> str:
    unit, d = study.summary.units[paired.objective], paired.difference
    text = f"  {paired.objective}: {unit.difference(d.difference)}{unit.noun}"
    if d.low == d.high:
        return text
    alone = sum(paired.alone)
    others = "" if not alone else f"; {count(alone, 'item')} tested by one study only"
    return (
        f"{text} ({unit.difference(d.low)} to {unit.difference(d.high)}), "
        f"{count(d.n, 'item')}{others}"
    )
