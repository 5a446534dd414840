"""The figure of this experiment: reported minus true scores, one dot per search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

WIDTH, ROW, LEFT, TOP, BOTTOM = 640, 46, 210, 12, 40
COLORS = ("#c2410c", "#b08900", "#6b7fa3", "#1f6fb4")


def draw(reported: Mapping[str, Sequence[float]], path: Path) -> None:
    """Write one strip per way of reporting, with its mean, on one axis in points."""
    everything = [value for values in reported.values() for value in values]
    low, high = math.floor(min(0.0, *everything)), math.ceil(max(0.0, *everything))
    height = TOP + ROW * len(reported) + BOTTOM

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - 20) * (value - low) / (high - low)

    parts = []
    for tick in range(low, high + 1):
        color = "#555" if tick == 0 else "#ddd"
        parts.append(f'<path d="M{x(tick):.1f} {TOP}V{height - BOTTOM}" stroke="{color}"/>')
        label = f"{tick:+d}" if tick else "0"
        parts.append(
            f'<text x="{x(tick):.1f}" y="{height - BOTTOM + 16}" text-anchor="middle">'
            f"{label.replace('-', '−')}</text>"
        )
    rng = np.random.default_rng(0)
    for row, ((name, values), color) in enumerate(zip(reported.items(), COLORS, strict=True)):
        y = TOP + ROW * (row + 0.5)
        parts.append(f'<text x="8" y="{y + 4:.1f}" fill="{color}">{escape(name)}</text>')
        parts += [
            f'<circle cx="{x(v):.1f}" cy="{y + rng.uniform(-9, 9):.1f}" r="3.2" fill="{color}" '
            'fill-opacity="0.55"/>'
            for v in values
        ]
        mean = float(np.mean(values))
        parts.append(
            f'<path d="M{x(mean):.1f} {y - 15:.1f}V{y + 15:.1f}" stroke="{color}" '
            'stroke-width="3"/>'
        )
    caption = "reported − truth, points (mean of four tasks); one dot per search, bars are means"
    parts.append(f'<text x="{LEFT}" y="{height - 6}">{escape(caption)}</text>')
    box = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} font-family="sans-serif" font-size="12" '
        f'fill="#333"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n',
        encoding="utf-8",
    )
