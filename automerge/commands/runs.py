"""`automerge runs`: the studies in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from automerge.errors import StateError
from automerge.report.front import FILE
from automerge.store.read_result import open_study, study_state
from automerge.store.store import exists
from automerge.text.terminal import harmless

if TYPE_CHECKING:
    from rich.console import Console

COLUMNS = ("run", "state", "trials", "take", "started")


def list_runs(folder: Path) -> list[dict[str, object]]:
    """Describe the studies in a folder and the folder itself, as JSON-ready rows, by start.

    `take` is the choice in the study's front.json; a study that cannot be read has a state that
    says so.

    Raises:
        StateError: there is no study.
    """
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    runs = [path for path in (folder, *inside) if path.is_dir() and exists(path)]
    if not runs:
        raise StateError(f"{folder} contains no study; give a folder of run folders, such as runs")
    return sorted((_row(run) for run in runs), key=lambda row: str(row["started"] or ""))


def print_runs(rows: list[dict[str, object]], console: Console) -> None:
    """Print the studies as a table."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, overflow="fold")
    for row in rows:
        cells = [str(row[name] if row[name] is not None else "") for name in COLUMNS]
        table.add_row(*(Text(harmless(cell)) for cell in cells))
    console.print(table)


def _row(run: Path) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(COLUMNS)
    row["run"] = str(run)
    try:
        with open_study(run) as store:
            counts = store.counts()
            row["state"] = study_state(store, run)
            row["trials"] = counts["measured"] + counts["failed"]
            row["started"] = store.study.begun.started[:16].replace("T", " ")
    except StateError:
        row["state"] = "cannot be read (automerge status says why)"
        return row
    row["take"] = _taken(run / FILE)
    return row


def _taken(path: Path) -> str | None:
    """Return the name in a front.json's choice; None where there is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    choice = document.get("choice") if isinstance(document, Mapping) else None
    if not isinstance(choice, Mapping):
        return None
    doubt = "" if choice.get("beats_parent") else " (no measurable gain)"
    return f"{choice.get('name')}{doubt}"
