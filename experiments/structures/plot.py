"""Draw the size and loss of every model of results/models.csv, a panel per zoo.

    python -m experiments.structures.plot

writes fronts.svg. Models with more than `WORST` of the base's loss are left out.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from experiments.structures.measure import RESULTS

PICTURE = Path(__file__).parent / "fronts.svg"
WORST = 1.2
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 430, 330, 52, 40, 44
COLORS = {
    "smaller": "#c2410c",
    "dataflow": "#7c3aed",
    "components": "#1f6fb4",
    "mixture": "#0f766e",
    "mixture with text": "#be185d",
    "lora_pool": "#8a6d00",
}
WORDS = {"text": "real text, four fine-tunes", "lora": "ten adapters, three kinds of text"}
SIZES = (0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)


def main() -> None:
    with RESULTS.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    zoos = list(dict.fromkeys(row["zoo"] for row in rows))
    panels = [
        f'<g transform="translate({WIDTH * number} 0)">{"".join(panel(zoo, rows))}</g>'
        for number, zoo in enumerate(zoos)
    ]
    style = "text{font:12px system-ui,sans-serif;fill:#333}.grid{stroke:#ddd}"
    size = f'width="{WIDTH * len(zoos)}" height="{HEIGHT}"'
    PICTURE.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"><style>{style}</style>'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(panels)}</svg>\n',
        encoding="utf-8",
    )


def panel(zoo: str, rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the parts of one zoo's picture: size, logarithmically, against loss."""
    own = [row for row in rows if row["zoo"] == zoo and float(row["loss"]) <= WORST]
    sizes, losses = ([float(row[key]) for row in own] for key in ("size", "loss"))
    x = scale(math.log(min(sizes) / 1.1), math.log(max(sizes) * 1.1), LEFT, WIDTH - 14)
    y = scale(min(losses) - 0.005, max(losses) + 0.005, HEIGHT - BOTTOM, TOP)
    parts = [text(LEFT, 18, WORDS.get(zoo, zoo), "font-weight:600")]
    for size in SIZES:
        if min(sizes) / 1.1 <= size <= max(sizes) * 1.1:
            at = x(math.log(size))
            parts.append(f'<path class="grid" d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
            parts.append(text(at - 8, HEIGHT - BOTTOM + 15, f"{size:g}"))
    step = 0.05 if max(losses) - min(losses) > 0.1 else 0.01
    for tick in range(math.ceil(min(losses) / step), math.floor(max(losses) / step) + 1):
        at = y(tick * step)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - 14}"/>')
        parts.append(text(12, at + 4, f"{tick * step:.2f}"))
    parts.append(text(LEFT, HEIGHT - 10, "parameters → loss, both of the base = 1"))
    for row in own:
        color = "#777777" if row["model"] in ("base", "uniform") else COLORS[row["space"]]
        place = f'cx="{x(math.log(float(row["size"]))):.1f}" cy="{y(float(row["loss"])):.1f}"'
        parts.append(f'<circle {place} r="4" fill="{color}" fill-opacity="0.6"/>')
    shown = [space for space in COLORS if any(row["space"] == space for row in own)]
    at = float(LEFT)
    for space in shown:
        parts.append(text(at, 33, space, f"fill:{COLORS[space]}"))
        at += 13 + 6.4 * len(space)
    return parts


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Return the linear map of [low, high] to [start, end]."""
    return lambda value: start + (end - start) * (value - low) / (high - low)


def text(x: float, y: float, words: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" style="{style}">{words}</text>'


if __name__ == "__main__":
    main()
