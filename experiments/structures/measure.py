"""Measure what searches of structures find, size against quality, and append it to a table.

    OMP_NUM_THREADS=1 python -m experiments.structures.measure runs/zoo/text/config.yaml \\
        --space smaller --space dataflow --space components --budget 16 \\
        --sampler auto,evaluation.items_per_candidate=30,split.max_select=64,split.max_test=150

Every space and seed is a study of the zoo's tasks with `parameters` as one more goal, for the
tokens of as many trials. A line of the table is a model of its front, the base or the uniform
average, with its values on items that no search sees.
"""

from __future__ import annotations

import argparse
import itertools
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from automerge.estimation.differences import paired_difference
from automerge.objective import Objective, estimate
from automerge.recipe import Recipe, single
from automerge.report.weights import layers_in_words
from experiments.rows import append, read
from experiments.search_quality.cell import Cell, opened, search, settings
from experiments.search_quality.truth import Scores, Truth, reference_recipes

RESULTS = Path(__file__).parent / "results" / "models.csv"
SIZE = "parameters"


@dataclass(frozen=True)
class Row:
    """A model; sizes and losses are relative to the base's."""

    zoo: str
    space: str
    budget: int
    seed: int
    dimensions: int
    trials: int
    tokens: int
    cpu_s: float
    """Of the search, without selection."""
    model: str
    """`base`, `uniform`, or the name of a trial on the front."""
    size: float
    loss: float
    """The mean over the tasks."""
    ahead: float
    """By how much the mean loss is lower than the uniform average's."""
    ahead_error: float
    structure: str


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--space", action="append", required=True)
    parser.add_argument("--sampler", default="auto", help="with settings of the study, as there")
    parser.add_argument("--budget", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--text", type=Path, help="a folder with a text per source, for evidence")
    parser.add_argument("--runs", type=Path, default=Path("runs/structures"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    done = {(row["zoo"], row["space"], row["budget"], row["seed"]) for row in read(given.out)}
    zoo = given.config.resolve().parent.name
    for seed, space in itertools.product(range(given.seeds), given.space):
        cell = Cell(zoo, space, given.sampler, given.budget, seed)
        name = space + " with text" * (given.text is not None)
        if (zoo, name, str(given.budget), str(seed)) not in done:
            for row in measured(cell, name, given.config, given.text, given.runs):
                append(row, given.out)
                print(asdict(row), flush=True)


def measured(cell: Cell, name: str, config: Path, text: Path | None, runs: Path) -> list[Row]:
    """Run a study; return the models of its front and what needs no search."""
    run = runs / f"{cell.zoo}-{name.replace(' ', '-')}-{cell.budget}-{cell.seed}"
    files = sorted(text.resolve().glob("*.txt")) if text else []
    study = settings(
        cell,
        config,
        run,
        properties=(SIZE,),
        evidence={"text": {file.stem: str(file) for file in files}} if files else None,
    )
    with opened(study) as (session, executor):
        truth = Truth(session, executor, runs / f"truth-{cell.zoo}")
        result = search(session, executor)
        trials = {trial.number: trial for trial in session.store.trials()}
        known = reference_recipes(tuple(session.config.models))
        found = {name: known[name] for name in ("base", "uniform")}
        found |= {trials[number].name: trials[number].recipe for number in result.front}
        return [
            Row(
                zoo=cell.zoo,
                space=name,
                budget=cell.budget,
                seed=cell.seed,
                dimensions=len(session.space.roles),
                trials=result.trials,
                tokens=result.tokens,
                cpu_s=round(result.seconds, 1),
                model=model,
                **values(truth, recipe, known["uniform"]),
                structure=layers_in_words(recipe),
            )
            for model, recipe in found.items()
        ]


def values(truth: Truth, recipe: Recipe, other: Recipe) -> dict[str, float]:
    """Return size and loss of a recipe, and how far it is ahead of another on the same items."""
    own, theirs, base = (truth.scores(one) for one in (recipe, other, single("base")))
    assert own is not None
    assert theirs is not None
    assert base is not None
    tasks = [o for o in truth.objectives if o.name != SIZE]
    gains, variances = [], []
    for task in tasks:
        difference = paired_difference(own[task.name], theirs[task.name], task.aggregation)
        scale = value(task, base)
        gains.append(-task.loss(difference.difference) / scale)
        variances.append((difference.stderr / scale) ** 2)
    losses = [value(task, own) / value(task, base) for task in tasks]
    return {
        "size": round(own[SIZE].values[0] / base[SIZE].values[0], 5),
        "loss": round(sum(losses) / len(losses), 5),
        "ahead": round(sum(gains) / len(gains), 5),
        "ahead_error": round(math.sqrt(sum(variances)) / len(gains), 5),
    }


def value(task: Objective, scores: Scores) -> float:
    """Return a task's loss: bits per byte and the like, which are minimised."""
    return task.loss(estimate(scores[task.name], task.aggregation).value)


if __name__ == "__main__":
    main()
