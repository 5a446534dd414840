"""results.json → estimates.svg and the tables of README.md, printed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from experiments.estimation.results import read

HERE = Path(__file__).parent
PANEL, HEIGHT, LEFT, TOP, BOTTOM = 330, 250, 44, 34, 38
DASHED = ' stroke-dasharray="4 3"'
SERIES = {
    "mean": ("plain mean", "#888888", ""),
    "control variates, when told": (
        "when told to the sampler",
        "#1f6fb4",
        ' stroke-dasharray="4 3"',
    ),
    "control variates": ("at the end of the search", "#1f6fb4", ""),
}
BEST = ("best tenth, at the end", "#c2410c", "")
NOMINAL = 0.90

Line = tuple[str, str, str, list[float]]


def main() -> None:
    results: Any = read()
    print_pool(results["pool"])
    print_superpopulation(results["superpopulation"])
    print_selection(results["selection"])
    for sampler in ("gp", "cma"):
        if f"simulation, {sampler}" in results:
            print_simulation(sampler, results[f"simulation, {sampler}"])
    (HERE / "estimates.svg").write_text(figure(results["pool"]), encoding="utf-8")


def print_pool(pool: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    names = list(next(iter(pool.values())))
    print("\n| estimator | " + " | ".join(f"n = {n}" for n in pool) + " |")
    print("|---|" + "---|" * len(pool))
    for name in names:
        cells = [
            f"{of[name]['variance ratio']:.2f} / {of[name]['variance ratio, best tenth']:.2f}"
            for of in pool.values()
        ]
        print(f"| variance ratio, {name} | " + " | ".join(cells) + " |")
    for name in names:
        cells = [
            f"{100 * of[name]['coverage']:.0f} / {100 * of[name]['coverage, best tenth']:.0f}"
            for of in pool.values()
        ]
        print(f"| coverage, %, {name} | " + " | ".join(cells) + " |")


def print_superpopulation(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    print("\n| level, items | Wilson: mean, lowest | Tango: mean, lowest tenth |\n|---|---|---|")
    for name, of in found.items():
        cells = [
            " , ".join(f"{100 * share:.1f} %" for share in row.values()) for row in of.values()
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")


def print_selection(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    sizes = list(next(iter(found.values())))
    print("\n| items per candidate | " + " | ".join(f"n = {n}" for n in sizes) + " |")
    print("|---|" + "---|" * len(sizes))
    for scheme, of in found.items():
        cells = [
            f"{100 * x['hypervolume']:.1f} ± {100 * x['standard error']:.1f} "
            f"({100 * x['optimism']:+.1f})"
            for x in of.values()
        ]
        print(f"| {scheme} | " + " | ".join(cells) + " |")


def print_simulation(sampler: str, runs: Mapping[str, Mapping[str, float]]) -> None:
    """Hypervolume in shares of the landscape's best, of all methods; each against the first."""
    found: dict[tuple[str, str], dict[str, Mapping[str, float]]] = {}
    best: dict[tuple[str, str], float] = {}
    for key, run in runs.items():
        dimension, method, seed = key.split(" | ")
        found.setdefault((dimension, method), {})[seed] = run
        at = dimension, seed
        best[at] = max(best.get(at, 0.0), run["hypervolume"])
    print(f"\n| {sampler}, method | runs | hypervolume, % of the best | the first's lead | "
          "optimism, points |\n|---|---|---|---|---|")  # fmt: skip
    for (dimension, method), of in found.items():
        first = next(rows for (d, _), rows in found.items() if d == dimension)
        seeds = [seed for seed in of if seed in first]
        share = [100 * of[s]["hypervolume"] / best[dimension, s] for s in seeds]
        lead = [
            100 * (first[s]["hypervolume"] - of[s]["hypervolume"]) / best[dimension, s]
            for s in seeds
        ]
        error = statistics.stdev(lead) / len(lead) ** 0.5 if len(lead) > 1 else 0.0
        flattery = statistics.mean(100 * of[s]["optimism"] for s in seeds)
        print(
            f"| {dimension}, {method} | {len(seeds)} | {statistics.mean(share):.1f} | "
            f"{statistics.mean(lead):+.1f} ± {error:.1f} | {flattery:+.1f} |"
        )


def figure(pool: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Variance ratio and coverage over the number of items, side by side."""
    sizes = [int(n) for n in pool]

    def lines(measure: str) -> list[Line]:
        found: list[Line] = [
            (*look, [of[name][measure] for of in pool.values()]) for name, look in SERIES.items()
        ]
        best = [of["control variates"][f"{measure}, best tenth"] for of in pool.values()]
        return [*found, (*BEST, best)]

    ratio = panel("Variance relative to the plain mean's", sizes, lines("variance ratio"), 0.0, 1.0)
    cover = panel("Coverage of 90 % intervals", sizes, lines("coverage"), 0.8, 1.0)
    legend = "".join(
        f'<text x="{2 * PANEL + 14}" y="{60 + 20 * row}" fill="{color}">{escape(label)}</text>'
        for row, (label, color, _) in enumerate([*SERIES.values(), BEST])
    )
    width = 2 * PANEL + 180
    box = f'viewBox="0 0 {width} {HEIGHT}" width="{width}" height="{HEIGHT}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box} font-family="sans-serif" font-size="11">'
    title = "<title>Variance and coverage of search estimates on real merges</title>"
    ground = f'<rect width="{width}" height="{HEIGHT}" fill="#fff"/>'
    beside = f'<g transform="translate({PANEL} 0)">{cover}</g>'
    return f"{head}{title}{ground}{ratio}{beside}{legend}</svg>\n"


def panel(title: str, sizes: Sequence[int], lines: Sequence[Line], low: float, high: float) -> str:
    """One diagram; the number of items has a logarithmic scale by rank."""
    right, bottom = PANEL - 16, HEIGHT - BOTTOM

    def across(i: int) -> float:
        return LEFT + 12 + i * (right - LEFT - 24) / (len(sizes) - 1)

    def up(y: float) -> float:
        return bottom - (y - low) / (high - low) * (bottom - TOP)

    parts = [f'<text x="{LEFT}" y="18" font-weight="bold">{title}</text>']
    for step in range(6):
        at = low + step * (high - low) / 5
        parts.append(f'<path d="M{LEFT} {up(at):.1f}H{right}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 30}" y="{up(at) + 4:.1f}">{at:.2f}</text>')
    if low < NOMINAL - 0.05 and low > 0:
        parts.append(f'<path d="M{LEFT} {up(NOMINAL):.1f}H{right}" stroke="#333"/>')
    for i, n in enumerate(sizes):
        parts.append(f'<text x="{across(i) - 9:.1f}" y="{bottom + 16}">{n}</text>')
    parts.append(f'<text x="{LEFT + 60}" y="{HEIGHT - 6}">items per candidate, of 1,000</text>')
    for _, color, dash, values in lines:
        places = [(across(i), up(value)) for i, value in enumerate(values)]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path d="{path}" fill="none" stroke="{color}" stroke-width="2"{dash}/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in places]
    return "".join(parts)


if __name__ == "__main__":
    main()
