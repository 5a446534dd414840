"""What was reported against the truth: python -m experiments.honest_numbers.summarise

Reads runs/honest_numbers/*/result.json; writes results.json and honest_numbers.svg here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from automerge.estimation import interval, paired_difference
from automerge.objective import ItemScores
from experiments.honest_numbers.plot import draw
from experiments.honest_numbers.study import BUDGET, N_FIXED, N_TRUTH, RUNS

HERE = Path(__file__).parent
Row = Mapping[str, Any]


def points(row: Row, key: str) -> float:
    """The mean over the tasks, in points."""
    return 100 * float(np.mean([value_of(v) for v in row[key].values()]))


def value_of(found: Any) -> float:
    return float(found["value"] if isinstance(found, dict) else found)


def bias(differences: Sequence[float]) -> dict[str, float]:
    """Mean, standard error over the seeds (which are independent), and range."""
    values = np.array(differences)
    stderr = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return {
        "mean": round(float(values.mean()), 2),
        "stderr": round(stderr, 2),
        "least": round(float(values.min()), 2),
        "most": round(float(values.max()), 2),
    }


def optimism(results: Sequence[Row], key: str, *, kind: str) -> list[float]:
    """Per seed: the mean of reported - truth over front merges ("front") or parents ("parents")."""
    wanted = {"front": lambda r: r["merge"] and r["on_front"], "parents": lambda r: not r["merge"]}
    means = []
    for result in results:
        rows = [row for row in result["ours"]["rows"] if wanted[kind](row)]
        if rows:
            means.append(float(np.mean([points(r, key) - points(r, "truth") for r in rows])))
    return means


def covered(results: Sequence[Row]) -> dict[str, float]:
    """How often the 95 % intervals that are reported of front merges hold the truth.

    The truth is measured too: intervals are widened by its own 95 % error, in quadrature.
    """
    scores, differences = [], []
    for result in results:
        rows = result["ours"]["rows"]
        parents = [r for r in rows if not r["merge"] and r["name"] != "uniform"]
        for row in (row for row in rows if row["merge"] and row["on_front"]):
            for name, test in row["test"].items():
                value, low, high = (float(test[key]) for key in ("value", "low", "high"))
                truth = interval(answers(row["truth"][name]), "mean")
                scores.append(holds((low, value, high), truth.value, truth.stderr))
                best = max(parents, key=lambda parent: float(parent["select"][name]))
                versus = paired_difference(answers(test), answers(best["test"][name]), "mean")
                apart = paired_difference(
                    answers(row["truth"][name]), answers(best["truth"][name]), "mean"
                )
                limits = (versus.low, versus.difference, versus.high)
                differences.append(holds(limits, apart.difference, apart.stderr))
    return {
        "scores": round(100 * float(np.mean(scores)), 1),
        "n_scores": len(scores),
        "differences": round(100 * float(np.mean(differences)), 1),
        "n_differences": len(differences),
    }


def answers(found: Row) -> ItemScores:
    values = tuple(map(float, found["answers"]))
    return ItemScores(tuple(("task", i) for i in range(len(values))), values)


def holds(limits: tuple[float, float, float], truth: float, stderr: float) -> bool:
    low, value, high = limits
    half = high - value if truth > value else value - low
    return abs(truth - value) <= math.hypot(half, 1.96 * stderr)


def main() -> None:
    results = [json.loads(path.read_text()) for path in sorted(RUNS.glob("*/result.json"))]
    common = [points(r["common"], "claimed") - points(r["common"], "truth") for r in results]
    reported = {
        "best of all on the same items": common,
        "search": optimism(results, "believed", kind="front"),
        "select": optimism(results, "select", kind="front"),
        "test": optimism(results, "test", kind="front"),
    }
    parents = {part: optimism(results, part, kind="parents") for part in ("select", "test")}
    found = {
        "seeds": len(results),
        "budget": BUDGET,
        "fixed_items_a_task": N_FIXED,
        "truth_items_a_task": N_TRUTH,
        "machine": "Linux x86-64, two shared cores, PyTorch 2.13.0 CPU",
        "reported_minus_truth_points": {name: bias(values) for name, values in reported.items()},
        "models_nobody_chose": {name: bias(values) for name, values in parents.items()},
        "test_less_models_nobody_chose": bias(
            [a - b for a, b in zip(reported["test"], parents["test"], strict=True)]
        ),
        "coverage_of_95_percent_intervals": covered(results),
    }
    (HERE / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(reported, HERE / "honest_numbers.svg")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
