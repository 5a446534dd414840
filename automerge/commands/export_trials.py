"""`automerge export-trials`: a study as a table, one row per trial, for other programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from automerge.errors import ConfigError, nearest
from automerge.files.atomic import write_bytes_atomically
from automerge.objective import Objective, estimate, searched
from automerge.store.read_result import open_study, study_objectives
from automerge.store.store import Store
from automerge.text.json_number import finite
from automerge.text.printable import inert
from automerge.text.redaction import redact
from automerge.trial import PARTS, Failed, Measured, Outcome

Cell: TypeAlias = str | float | int | bool | None
Row: TypeAlias = Mapping[str, Cell]

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Spreadsheets run a cell that begins with one of these as a formula."""


def write_trials(run: Path, file_format: str, out: Path | None = None) -> Path:
    """Write every trial of a study to a file, whole or not at all; return its path.

    `out` None is RUN/trials.FORMAT. Raises ConfigError for an unknown format or a bad path, and
    StateError where the disk refuses.
    """
    if file_format not in FORMATS:
        raise ConfigError(f"--format: unknown {file_format!r}{nearest(file_format, list(FORMATS))}")
    out = out or run / f"trials.{file_format}"
    if out.is_dir():
        raise ConfigError(f"--out: {out} is a folder; name a file")
    with open_study(run) as store:
        rows = list(trial_rows(store))
    return write_bytes_atomically(out, FORMATS[file_format](rows))


def trial_rows(store: Store) -> Iterator[Row]:
    """Yield one flat row per trial, all with the same columns (docs/export_trials.md).

    A duplicate shows the scores of the trial whose recipe it repeats.
    """
    objectives = study_objectives(store)
    trials = store.trials()
    duplicates = store.duplicates()
    times = store.times()
    outcomes = {part: store.outcomes(part) for part in PARTS}
    names = sorted({name for trial in trials for name in trial.params or ()})
    for trial in trials:
        number = duplicates.get(trial.number, trial.number)
        asked, told = times.get(trial.number, (None, None))
        row: dict[str, Cell] = {
            "number": trial.number,
            "name": trial.name,
            "origin": trial.origin,
            "duplicate_of": duplicates.get(trial.number),
            "recipe_id": trial.recipe.id,
            "recipe": json.dumps(trial.recipe.plain(), ensure_ascii=False),
            "asked": _time(asked),
            "told": _time(told),
        }
        row |= {f"params.{name}": (trial.params or {}).get(name) for name in names}
        for part in PARTS:
            own = objectives if part == "test" else searched(objectives)
            row |= _part(part, outcomes[part].get(number), own)
        row |= _failure([outcomes[part].get(number) for part in PARTS])
        yield {
            name: inert(redact(cell)) if isinstance(cell, str) else cell
            for name, cell in row.items()
        }


def _part(part: str, outcome: Outcome | None, objectives: Sequence[Objective]) -> dict[str, Cell]:
    """Return values, standard errors and numbers of items; then seconds and tokens."""
    measured = outcome if isinstance(outcome, Measured) else None
    row: dict[str, Cell] = {}
    for objective in objectives:
        columns = [f"{part}.{objective.name}.{key}" for key in ("value", "stderr", "n")]
        if measured is None:
            row |= dict.fromkeys(columns)
        else:
            found = estimate(measured.scores[objective.name], objective.aggregation)
            numbers = (finite(found.value), finite(found.stderr), found.n)
            row |= dict(zip(columns, numbers, strict=True))
    seconds = {} if measured is None else asdict(measured.timings)
    for key in ("merge", "forward", "score", "total"):
        row[f"{part}.{key}_s"] = seconds.get(key)
    row[f"{part}.tokens"] = None if measured is None else measured.tokens
    return row


def _failure(outcomes: Sequence[Outcome | None]) -> dict[str, Cell]:
    for part, outcome in zip(PARTS, outcomes, strict=True):
        if isinstance(outcome, Failed):
            return {
                "failure.part": part,
                "failure.kind": outcome.kind,
                "failure.reason": outcome.reason,
            }
    return {"failure.part": None, "failure.kind": None, "failure.reason": None}


def _time(seconds: float | None) -> str | None:
    """Return Unix seconds as ISO 8601 in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def to_csv(rows: Sequence[Row]) -> bytes:
    """Return RFC 4180 in UTF-8; text that a spreadsheet would run gets a leading apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text)
    columns = list(rows[0]) if rows else []
    writer.writerow([_inert(column) for column in columns])
    for row in rows:
        writer.writerow([_inert(cell) if isinstance(cell, str) else cell for cell in row.values()])
    return text.getvalue().encode("utf-8", "replace")


def _inert(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text


def to_jsonl(rows: Sequence[Row]) -> bytes:
    """Return one JSON object per line; unknown values are null."""
    lines = (json.dumps(row, ensure_ascii=True, allow_nan=False) + "\n" for row in rows)
    return "".join(lines).encode()


def to_parquet(rows: Sequence[Row]) -> bytes:
    """Return an Apache Parquet file, through pyarrow."""
    import pyarrow
    from pyarrow import parquet

    columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table(columns), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


FORMATS: Mapping[str, Callable[[Sequence[Row]], bytes]] = {
    "csv": to_csv,
    "jsonl": to_jsonl,
    "parquet": to_parquet,
}
