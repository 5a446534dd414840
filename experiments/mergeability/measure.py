"""What tells, before any merge is scored, which two models average well?

    OMP_NUM_THREADS=1 python -m experiments.mergeability.measure runs/zoo/lora

Scores the average of every pair of the pool's adapters on both of their tasks, and writes how much
better it is than the better adapter of the two beside what `automerge inspect` shows of the pair
(results/pairs.csv), and prints the rank correlations.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import stats

from automerge.config import load_config
from automerge.estimation.differences import paired_difference
from automerge.objective import Objective, estimate
from automerge.recipe import Recipe, single, uniform_average
from experiments.rows import append
from experiments.search_quality.cell import opened
from experiments.search_quality.truth import Scores, Truth

RESULTS = Path(__file__).parent / "results" / "pairs.csv"
ITEMS = 150
RESAMPLED = 2000
"""Bootstrap samples of models behind an interval of a rank correlation."""
SIGNS = ("kinship", "gradients", "promise")


@dataclass(frozen=True)
class Row:
    """A pair; losses are relative to the base's, as means over the two tasks."""

    one: str
    other: str
    gain: float
    """By how much the average's loss is lower than that of the better of the two."""
    gain_error: float
    kept: float
    """The average's gain over the base, as a share of that of each adapter on its own task."""
    kinship: float
    """The cosine of the task vectors."""
    gradients: float
    """The cosine of the base's mean gradients on the two kinds of text."""
    promise: float
    """What the sum of both task vectors promises for both texts to first order, in nats."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/mergeability"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    zoo = given.zoo.resolve()
    sources = tuple(yaml.safe_load((zoo / "config.yaml").read_text(encoding="utf-8"))["models"])
    shown = inspected(zoo, sources)
    given.out.unlink(missing_ok=True)
    for row in measured(zoo, sources, shown, given.runs):
        append(row, given.out)
    with given.out.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for target, sign in itertools.product(("gain", "kept"), SIGNS):
        found, low, high = correlation(rows, sources, target, sign)
        print(f"{target:5} {sign:9} {found:+.2f} ({low:+.2f} to {high:+.2f})")


def inspected(zoo: Path, sources: Sequence[str]) -> Mapping[str, Any]:
    """Return what `automerge inspect` prints of the pool."""
    command = ["automerge", "inspect", str(zoo / "base"), "--json"]
    command += [f"{name}={zoo / 'sources' / name}" for name in sources]
    command += ["--weights"]
    for name in sources:
        command += ["--gradients", f"{name}={zoo / 'text' / name}.txt"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: Mapping[str, Any] = json.loads(done.stdout)
    return found


def measured(zoo: Path, sources: Sequence[str], shown: Mapping[str, Any], runs: Path) -> list[Row]:
    """Score all pairs, on items that are the same for all."""
    config = load_config(
        {
            "base": str(zoo / "base"),
            "models": {name: str(zoo / "sources" / name) for name in sources},
            "include_path": str(zoo / "tasks"),
            "tasks": [f"{name}_bpb" for name in sources],
            "executor": "local",
            "evaluation": {"batch_size": 64},
            "split": {"max_test": ITEMS},
            "export": "none",
            "out": str(runs / "study"),
        }
    )
    with opened(config) as (session, executor):
        truth = Truth(session, executor, runs / "truth")
        task = {o.name.split("_bpb")[0]: o for o in truth.objectives}
        base = scored(truth, single("base"))
        found = []
        for one, other in itertools.combinations(sources, 2):
            own = (task[one], task[other])
            average = scored(truth, uniform_average((one, other)))
            experts = {name: scored(truth, single(name)) for name in (one, other)}
            better = min(experts.values(), key=lambda e: sum(relative(t, e, base) for t in own))
            gains = [difference(t, average, better, base) for t in own]
            best = [1 - relative(task[name], experts[name], base) for name in (one, other)]
            merged = [1 - relative(t, average, base) for t in own]
            found.append(
                Row(
                    one,
                    other,
                    round(sum(g for g, _ in gains) / 2, 5),
                    round(math.hypot(*(e for _, e in gains)) / 2, 5),
                    round(sum(m / b for m, b in zip(merged, best, strict=True)) / 2, 4),
                    *(round(value, 5) for value in signs(shown, one, other)),
                )
            )
        return found


def scored(truth: Truth, recipe: Recipe) -> Scores:
    found = truth.scores(recipe)
    assert found is not None, recipe
    return found


def relative(task: Objective, scores: Scores, base: Scores) -> float:
    return value(task, scores) / value(task, base)


def difference(task: Objective, better: Scores, worse: Scores, base: Scores) -> tuple[float, float]:
    """How much lower one loss is than another, relative to the base's, and the standard error."""
    found = paired_difference(better[task.name], worse[task.name], task.aggregation)
    scale = value(task, base)
    return -task.loss(found.difference) / scale, found.stderr / scale


def value(task: Objective, scores: Scores) -> float:
    return estimate(scores[task.name], task.aggregation).value


def signs(shown: Mapping[str, Any], one: str, other: str) -> tuple[float, float, float]:
    """Return what is shown of a pair before it is merged, in the order of `SIGNS`."""
    pair = {one, other}
    kinship = next(p["cosine"] for p in shown["weights"]["pairs"] if {p["one"], p["other"]} == pair)
    gradients = next(
        p["cosine"] for p in shown["gradients"]["pairs"] if {p["one"], p["other"]} == pair
    )
    falls = shown["gradients"]["falls"]
    own = [fall["nats"] for fall in falls if {fall["text"], fall["source"]} <= pair]
    return kinship, gradients, sum(own) / 2


def correlation(
    rows: Sequence[Mapping[str, str]], sources: Sequence[str], target: str, sign: str
) -> tuple[float, float, float]:
    """Return Spearman's correlation over pairs and its 95 % interval, sources being resampled.

    Pairs share models, so models are drawn, with replacement, and pairs of the same one left out.
    """
    known = {frozenset((r["one"], r["other"])): (float(r[sign]), float(r[target])) for r in rows}
    rng = np.random.default_rng(0)
    found = []
    for _ in range(RESAMPLED):
        drawn = rng.choice(len(sources), len(sources))
        pairs = [
            known[frozenset((sources[i], sources[j]))]
            for i, j in itertools.combinations(drawn, 2)
            if i != j
        ]
        found.append(float(stats.spearmanr(*zip(*pairs, strict=True)).statistic))
    low, high = np.nanquantile(found, (0.025, 0.975)).tolist()
    return float(stats.spearmanr(*zip(*known.values(), strict=True)).statistic), low, high


if __name__ == "__main__":
    main()
