"""Search the demo for a group of all its tasks, with slopes and without, for the same tokens.

    OMP_NUM_THREADS=1 python -m experiments.slopes.groups --kind worst --kind mean --seeds 3

The group is relative to the best sources. Every combination of kind, `slopes` and seed that
groups.csv lacks is a study as in `experiments.search_quality`, with the price of --budget trials
without slopes. The merge that is best on select items is scored on the 300 test items of each task,
which no search sees, beside the uniform average and the best parent.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from automerge import demo
from automerge.groups import best_sources, with_groups
from automerge.objective import Estimate, estimate, goals
from automerge.recipe import Recipe, single, uniform_average
from automerge.trial import Part
from experiments.rows import append, read
from experiments.search_quality.cell import Cell, opened, search, settings
from experiments.search_quality.truth import Truth

RESULTS = Path(__file__).parent / "groups.csv"
TASKS = ["demo_sorting", "demo_clock", "demo_median", "demo_facts"]


@dataclass(frozen=True)
class Row:
    """A line of the table: values of the group on test items, 1 for what equals all experts."""

    kind: str
    slopes: str
    budget: int
    seed: int
    trials: int
    tokens: int
    cpu_s: float
    value: float
    stderr: float
    uniform: float
    best_parent: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", action="append", required=True, choices=("mean", "worst"))
    parser.add_argument("--space", default="components")
    parser.add_argument("--budget", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/slopes_groups"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    done = {(r["kind"], r["slopes"], int(r["budget"]), int(r["seed"])) for r in read(given.out)}
    for seed, kind, slopes in itertools.product(range(given.seeds), given.kind, ("auto", "off")):
        if (kind, slopes, given.budget, seed) in done:
            continue
        cell = Cell("demo", given.space, f"auto,slopes={slopes}", given.budget, seed)
        row = measured(cell, kind, slopes, given.runs)
        append(row, given.out)
        print(row, flush=True)


def measured(cell: Cell, kind: str, slopes: str, runs: Path) -> Row:
    """Search for a group, and score what was found on test items."""
    run = runs / f"{kind}-{slopes}-{cell.space}-{cell.budget}-{cell.seed}"
    group = {"name": kind, kind: TASKS, "relative": True}
    config = settings(cell, demo.CONFIG, run, groups=[group])
    with opened(config) as (session, executor):
        truth = Truth(session, executor, runs / "truth")
        found = search(session, executor)
        recipes = {trial.number: trial.recipe for trial in session.store.trials()}
        sources = [single(name) for name in config.models]
        front = [recipes[number] for number in found.front]
        chosen = best(truth, front, sources, "select")
        parents = [single("base"), *sources]
        own = value(truth, chosen, sources, "test")
        return Row(
            kind,
            slopes,
            cell.budget,
            cell.seed,
            found.trials,
            found.tokens,
            round(found.seconds, 1),
            round(own.value, 4),
            round(own.stderr, 4),
            round(value(truth, uniform_average(tuple(config.models)), sources, "test").value, 4),
            round(max(value(truth, parent, sources, "test").value for parent in parents), 4),
        )


def value(truth: Truth, recipe: Recipe, sources: Iterable[Recipe], part: Part) -> Estimate:
    """Return the group's value; the expert at a task is the source that is best on select items."""
    objectives = truth.session.plan.objectives
    (group,) = goals(objectives)
    own = list(sources)
    chosen = best_sources(objectives, [truth.scores(source, "select") or {} for source in own])
    experts = {
        name: (truth.scores(own[number], part) or {})[name] for name, number in chosen.items()
    }
    scores = with_groups(objectives, truth.scores(recipe, part) or {}, experts)
    return estimate(scores[group.name], group.aggregation)


def best(truth: Truth, recipes: Iterable[Recipe], sources: list[Recipe], part: Part) -> Recipe:
    """Return the recipe with the highest value of the group."""
    return max(recipes, key=lambda recipe: value(truth, recipe, sources, part).value)


if __name__ == "__main__":
    main()
