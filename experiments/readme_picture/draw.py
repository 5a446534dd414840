"""The README's picture, from a finished study.

    make picture

is the same as

    automerge demo --budget 40 --no-menu --out runs/picture
    python -m experiments.readme_picture.draw runs/picture docs/front.svg

Every model that was tested, by its mean over the objectives with its 95 % interval, and its score
on each of them. The objectives are percentages to be maximised, as the demo's are.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

Z_95 = 1.96
WIDTH, ROW, TOP, BOTTOM = 860, 22, 84, 34
NAME, CHART, CELLS, CELL = 10, 190, 560, 72
COLORS = {"front": "#1f6fb4", "parent": "#c2410c", "base": "#777777", "baseline": "#8a6d00"}
WORDS = {"parent": "fine-tune", "baseline": "uniform average"}


@dataclass(frozen=True)
class Row:
    """A model's mean and the half width of its interval, and its scores, in percent."""

    name: str
    kind: str
    mean: float
    half: float
    scores: tuple[float, ...]


def rows(front: Mapping[str, Any]) -> list[Row]:
    """Read the tested models of a front.json, the best mean first."""
    names = [o["name"] for o in front["objectives"] if o["goal"]]
    found = []
    for member in front["members"]:
        tests = [member["scores"][name]["test"] for name in names]
        if any(test is None for test in tests):
            continue
        values = [100 * test["value"] for test in tests]
        error = 100 * math.sqrt(sum(test["stderr"] ** 2 for test in tests)) / len(tests)
        mean = math.fsum(values) / len(values)
        found.append(Row(member["name"], member["kind"], mean, Z_95 * error, tuple(values)))
    return sorted(found, key=lambda row: -row.mean)


def draw(front: Mapping[str, Any]) -> str:
    """Return the picture as SVG."""
    shown = rows(front)
    names = [o["name"].removeprefix("demo_") for o in front["objectives"] if o["goal"]]
    low = math.floor(min(row.mean - row.half for row in shown)) - 1
    high = math.ceil(max(row.mean + row.half for row in shown)) + 1
    bottom = TOP + ROW * len(shown)
    height = bottom + BOTTOM

    def x(value: float) -> float:
        return CHART + (CELLS - 30 - CHART) * (value - low) / (high - low)

    parts = [_text(NAME, 22, front["conclusion"][0], "title")]
    parts.append(
        _text(
            NAME, 44, f"{front['study']}: budget {front['budget']}, sealed test items, percent", ""
        )
    )
    for tick in range(5 * math.ceil(low / 5), high + 1, 5):
        parts.append(f'<path class="grid" d="M{x(tick):.1f} {TOP - 4}V{bottom}"/>')
        parts.append(_text(x(tick), bottom + 16, str(tick), "middle"))
    parts.append(_text(CHART, TOP - 12, f"mean of {len(names)} tasks, with its 95 % interval", ""))
    parts += [
        _text(CELLS + CELL * (k + 0.5), TOP - 12, name, "middle") for k, name in enumerate(names)
    ]
    columns = list(zip(*(row.scores for row in shown), strict=True))
    for number, row in enumerate(shown):
        parts += _row(row, TOP + ROW * number, x, columns)
    style = (
        "text{font:13px system-ui,sans-serif;fill:#333}.title{font-weight:600;font-size:13px}"
        ".middle{text-anchor:middle}.grid{stroke:#ddd}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img"><style>{style}</style>'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )


def _row(row: Row, y: float, x: Any, columns: Sequence[Sequence[float]]) -> list[str]:
    color, middle = COLORS[row.kind], y + ROW / 2
    name = WORDS[row.kind] if row.kind == "baseline" else row.name
    word = f" ({WORDS[row.kind]})" if row.kind == "parent" else ""
    parts = [f'<g style="fill:{color}">{_text(NAME, middle + 4, name + word, "", color)}</g>']
    ends = x(row.mean - row.half), x(row.mean + row.half)
    parts.append(
        f'<path d="M{ends[0]:.1f} {middle}H{ends[1]:.1f}" stroke="{color}" stroke-width="2"/>'
    )
    at = x(row.mean)
    if row.kind == "front":
        parts.append(f'<circle cx="{at:.1f}" cy="{middle}" r="5" fill="{color}"/>')
    else:
        parts.append(
            f'<rect x="{at - 4.5:.1f}" y="{middle - 4.5}" width="9" height="9" fill="{color}"/>'
        )
    for k, (score, column) in enumerate(zip(row.scores, columns, strict=True)):
        share = (score - min(column)) / ((max(column) - min(column)) or 1)
        parts.append(
            f'<rect x="{CELLS + CELL * k + 1}" y="{y + 1}" width="{CELL - 2}" height="{ROW - 2}" '
            f'fill="#1f6fb4" fill-opacity="{0.45 * share:.2f}"/>'
        )
        parts.append(_text(CELLS + CELL * (k + 0.5), middle + 4, f"{score:.0f}", "middle"))
    return parts


def _text(x: float, y: float, text: str, kind: str, color: str | None = None) -> str:
    style = "" if color is None else f' style="fill:{color}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}"{style}>{escape(text)}</text>'


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("picture", type=Path)
    given = parser.parse_args()
    front = json.loads((given.run / "front.json").read_text(encoding="utf-8"))
    given.picture.write_text(draw(front), encoding="utf-8")


if __name__ == "__main__":
    main()
