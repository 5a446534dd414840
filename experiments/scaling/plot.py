"""results.json → busy.svg and the table of README.md, printed."""

from __future__ import annotations

import json
import math
from html import escape
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
COLORS = {"random": "#888888", "cma": "#1f6fb4", "gp": "#c2410c"}
WIDTH, HEIGHT, LEFT, TOP = 420, 240, 46, 14
LOWEST = 0.8


def main() -> None:
    runs = json.loads((HERE / "results.json").read_text())["runs"]
    print("| sampler | workers | mean duration, s | trials | busy | driver ms per trial, wall "
          "(median) | processor | last tenth, wall | memory at the end, MB "
          "| resuming, s |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|")
    for r in runs:
        queued = f" + {r['ahead']} queued" if r["ahead"] else ""
        print(
            f"| {r['sampler']} | {r['workers']}{queued} | "
            f"{r['mean_s']:.0f} | {r['trials']} | {100 * r['busy']:.1f} % | {r['driver_ms']:.1f} "
            f"({r['driver_ms_median']:.1f}) | {r['driver_cpu_ms']:.1f} | "
            f"{r['driver_ms_late']:.1f} | {r['rss_mb'][-1][1]:.0f} | "
            f"{r['resume_s']:.1f} |"
        )
    (HERE / "busy.svg").write_text(figure(runs))


def figure(runs: list[dict[str, Any]]) -> str:
    """Busy share over the number of workers, one line a sampler and mean duration."""
    lines: dict[tuple[str, float], dict[int, float]] = {}
    for r in runs:
        if not r["ahead"]:
            key = (r["sampler"], r["mean_s"])
            lines.setdefault(key, {}).setdefault(r["workers"], r["busy"])  # the first, short run
    parts = []
    for share in (0.8, 0.85, 0.9, 0.95, 1.0):
        y = place(1, share)[1]
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - 90}" stroke="#ddd"/>')
        parts.append(f'<text x="4" y="{y + 4:.1f}">{100 * share:.0f} %</text>')
    for workers in (1, 4, 16, 64, 256):
        x = place(workers, 1)[0]
        parts.append(f'<text x="{x - 6:.1f}" y="{HEIGHT - 18}">{workers}</text>')
    parts.append(f'<text x="{LEFT + 100}" y="{HEIGHT - 3}">workers</text>')
    for row, ((sampler, mean_s), points) in enumerate(lines.items()):
        color = COLORS[sampler]
        dash = ' stroke-dasharray="4 3"' if mean_s < 60 else ""
        places = [place(*point) for point in sorted(points.items())]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path d="{path}" fill="none" stroke="{color}" stroke-width="2"{dash}/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in places]
        label = escape(f"{sampler}, {mean_s:.0f} s")
        parts.append(
            f'<text x="{WIDTH - 82}" y="{TOP + 16 * (row + 1)}" fill="{color}">{label}</text>'
        )
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    style = 'font-family="sans-serif" font-size="11"'
    title = "<title>Share of the workers' time spent measuring</title>"
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box} {style}>{title}{"".join(parts)}</svg>\n'


def place(workers: int, busy: float) -> tuple[float, float]:
    """Where a point lies on the page; below the axis nothing is drawn."""
    x = LEFT + 10 + math.log2(workers) / 8 * (WIDTH - 90 - LEFT - 20)
    y = TOP + (1 - (max(busy, LOWEST) - LOWEST) / (1 - LOWEST)) * (HEIGHT - TOP - 40)
    return x, y


if __name__ == "__main__":
    main()
