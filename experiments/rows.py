"""Tables of results as CSV files with a line per row, a dataclass."""

from __future__ import annotations

import csv
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def read(table: Path) -> list[dict[str, str]]:
    """The rows of a table; none where there is no file."""
    if not table.is_file():
        return []
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def append(row: DataclassInstance, table: Path) -> None:
    """Write one more line, after the header if it is the first."""
    table.parent.mkdir(parents=True, exist_ok=True)
    new = not table.is_file()
    with table.open("a", encoding="utf-8", newline="") as file:
        names = [f.name for f in fields(row)]
        writer = csv.DictWriter(file, names, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(asdict(row))
