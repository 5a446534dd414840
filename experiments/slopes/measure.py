"""Score random merges of a zoo twice, on different items, and rank them by loss and by metric.

    OMP_NUM_THREADS=1 python -m experiments.slopes.measure NAME [CONFIG] [--merges N] [--items N]

CONFIG is a study's configuration, by default the demo's. Merges are uniform draws from its search
space, without base and sources, whose scores are far apart. Temperatures come from the margins of
base and sources, as in a search. Spearman's ρ over merges, per objective, goes to results.json:
between loss and metric on the same items, between loss on one half of the items and metric on the
other, and between the metric on both halves.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from automerge import demo
from automerge.config import load_config
from automerge.estimation.margins import temperature
from automerge.estimation.ranks import spearman
from automerge.objective import estimates
from automerge.trial import Items, Job, Measured, Steering, answers_to_follow
from experiments.estimation.table import open_demo
from experiments.margins.table import proposals

RESULTS = Path(__file__).parent / "results.json"


def temperatures(parents: list[Measured]) -> dict[str, float]:
    """The temperature of each leaf task, from the margins of some models."""
    found: dict[str, list[float]] = {}
    for measured in parents:
        for margins in measured.margins.values():
            for (task, _), value in zip(margins.items, margins.values, strict=True):
                found.setdefault(task, []).append(value)
    return {task: temperature(np.array(values)) for task, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("config", type=Path, nargs="?", default=demo.CONFIG)
    parser.add_argument("--merges", type=int, default=24)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--targets", action="store_true", help="follow no model's answers")
    args = parser.parse_args()
    config = load_config(args.config)
    with tempfile.TemporaryDirectory() as scratch:
        worker, space, objectives = open_demo(config, Path(scratch) / "tasks", slopes=True)
        half = args.items // 2
        halves: list[Items] = [
            {o.task: tuple(range(start, start + half)) for o in objectives} for start in (0, half)
        ]
        drawn = proposals(space)
        firsts = [recipe for recipe, _, _ in islice(drawn, len(space.sources) + 2)]
        whole = {o.task: tuple(range(2 * half)) for o in objectives}
        parents = {}
        for number, recipe in enumerate(firsts[:-1]):
            found = worker.measure(Job(number, recipe, "search", whole, keep_answers=True))
            if isinstance(found, Measured):
                parents[number] = found
        answers = {} if args.targets else answers_to_follow(parents)
        steering = Steering(temperatures(list(parents.values())), answers)
        losses = np.full((args.merges, 2, len(objectives)), np.nan)
        values = losses.copy()
        for row, (recipe, _, _) in enumerate(islice(drawn, args.merges)):
            for part, items in enumerate(halves):
                job = Job(0, recipe, "search", items, steering=steering)
                outcome = worker.measure(job)
                if not isinstance(outcome, Measured) or not outcome.slopes:
                    continue
                means = estimates(objectives, outcome.scores)
                for at, objective in enumerate(objectives):
                    losses[row, part, at] = outcome.slopes[objective.name].loss
                    values[row, part, at] = objective.loss(means[objective.name].value)
            print(row + 1, flush=True)
    good = np.isfinite(losses).all(axis=(1, 2)) & np.isfinite(values).all(axis=(1, 2))
    losses, values = losses[good], values[good]
    table: dict[str, Any] = {}
    for at, objective in enumerate(objectives):
        loss, value = losses[:, :, at], values[:, :, at]
        table[objective.name] = {
            "metric": objective.metric,
            "temperature": steering.temperatures.get(objective.task),
            "same items": spearman(loss.mean(axis=1), value.mean(axis=1)),
            "loss, other items": _mean(loss, value),
            "metric, other items": spearman(value[:, 0], value[:, 1]),
        }
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known[args.name] = {"merges": int(good.sum()), "items": 2 * half, "objectives": table}
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")
    print(json.dumps(known[args.name], indent=1))


def _mean(loss: np.ndarray, value: np.ndarray) -> float | None:
    """The mean ρ of loss on one half and metric on the other."""
    found = [spearman(loss[:, one], value[:, 1 - one]) for one in (0, 1)]
    known = [rank for rank in found if rank is not None]
    return sum(known) / len(known) if known else None


if __name__ == "__main__":
    main()
