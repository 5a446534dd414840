"""Summarise a table of cells as Markdown: python -m experiments.search_quality.table

results/cells.csv becomes results/tables.md; `--cells results/cells_before.csv` tables_before.md.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from experiments.rows import read
from experiments.search_quality.run import RESULTS

HEADER = (
    "| sampler | budget | seeds | volume beyond references, ×10⁻⁶ | best mean loss "
    "| ahead of uniform, % | significantly ahead | behind | Mtokens | CPU s |\n"
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=Path, default=RESULTS)
    given = parser.parse_args()
    tables = defaultdict(list)
    for row in read(given.cells):
        tables[row["zoo"], row["space"]].append(row)
    text = "".join(map(_section, tables, tables.values()))
    target = given.cells.with_name(given.cells.stem.replace("cells", "tables") + ".md")
    target.write_text("# Search quality\n" + text, encoding="utf-8")
    print(target)


def _section(place: tuple[str, str], rows: Sequence[dict[str, str]]) -> str:
    zoo, space = place
    cells = defaultdict(list)
    for row in rows:
        cells[int(row["budget"]), row["sampler"]].append(row)
    first = rows[0]
    return (
        f"\n## {zoo}, {space} ({first['dimensions']} dimensions)\n\n"
        f"Parents and uniform average dominate {float(first['volume_before']):.4g} × 10⁻⁶; "
        f"mean loss of the uniform average {first['uniform']}, "
        f"of the best parent {first['best_parent']}.\n\n"
        + HEADER
        + "".join(_line(*key, cells[key]) for key in sorted(cells))
    )


def _line(budget: int, sampler: str, rows: Sequence[dict[str, str]]) -> str:
    share = [sum(int(r["significant"]) == sign for r in rows) / len(rows) for sign in (1, -1)]
    tokens = statistics.mean(float(r["tokens"]) for r in rows) / 1e6
    known = [float(r["cpu_s"]) for r in rows if r["cpu_s"] != "nan"]
    seconds = statistics.mean(known) if known else math.nan
    return (
        f"| {sampler} | {budget} | {len(rows)} | {_spread(rows, 'volume', 1)} | "
        f"{_spread(rows, 'mean', 1)} | {_spread(rows, 'ahead', 100)} | {share[0]:.0%} | "
        f"{share[1]:.0%} | {tokens:.2f} | {seconds:.0f} |\n"
    )


def _spread(rows: Sequence[dict[str, str]], key: str, factor: float) -> str:
    """The mean, and its standard error over seeds."""
    values = [factor * float(row[key]) for row in rows]
    mean = f"{statistics.mean(values):.4g}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values) / math.sqrt(len(values)):.2g}"


if __name__ == "__main__":
    main()
