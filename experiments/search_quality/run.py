"""Measure cells and append them to a table.

    python -m experiments.search_quality.run --zoo text=FOLDER --space components \\
        --sampler gp --sampler random --budget 30 --seeds 4

Every combination of the given zoos, spaces, samplers, budgets and seeds is a cell; those that the
table has are left out. `--zoo demo` is the shipped demo; `--zoo text/choice=FOLDER` takes
FOLDER/choice.yaml. A sampler may carry settings of the study: `--sampler auto,slopes=off`. Beside
the samplers, `--sampler references` measures what needs no search: uniform average, greedy soup and
the best single coefficient. Studies and scores are kept below --runs.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from automerge.recipe import Recipe
from experiments.rows import append, read
from experiments.search_quality.cell import Cell, opened, search, settings, zoo_config
from experiments.search_quality.truth import (
    Truth,
    greedy_soup,
    reference_recipes,
    sweep_recipes,
    volume,
)

RESULTS = Path(__file__).parent / "results" / "cells.csv"
REFERENCES = "references"
Z_95 = 1.96


@dataclass(frozen=True)
class Row:
    """A line of the table. Losses are relative to the base's; volumes are times a million."""

    zoo: str
    space: str
    sampler: str
    budget: int
    seed: int
    dimensions: int
    trials: int
    tokens: int
    cpu_s: float
    front: int
    volume: float
    """Hypervolume beyond parents and uniform average."""
    volume_before: float
    """That of parents and uniform average."""
    mean: float
    """Mean loss of the model with the best mean on select items, on the test items."""
    uniform: float
    best_parent: float
    """The lowest of base and sources."""
    ahead: float
    """Mean loss of the uniform average less `mean`."""
    ahead_error: float
    significant: int
    """1 if ahead by more than 1.96 standard errors, -1 if behind, else 0."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--zoo", action="append", required=True, metavar="NAME[=FOLDER]")
    parser.add_argument("--space", action="append", required=True)
    parser.add_argument("--sampler", action="append", required=True)
    parser.add_argument("--budget", action="append", type=int, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/search_quality"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    zoos = dict(zoo.partition("=")[::2] for zoo in given.zoo)
    folders = {name.partition("/")[0]: Path(folder) for name, folder in zoos.items()}
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    done = {_key(row) for row in read(given.out)}
    for zoo, space, budget, seed, sampler in itertools.product(
        zoos, given.space, given.budget, seeds, given.sampler
    ):
        cell = Cell(zoo, space, sampler, budget, seed)
        if _key(asdict(cell)) in done:
            continue
        for row in measured(cell, zoo_config(zoo, folders), given.runs):
            append(row, given.out)
            print(asdict(row), flush=True)


def measured(cell: Cell, config: Path, runs: Path) -> list[Row]:
    """Run a cell and compare its front with what needs no search."""
    parts = (cell.zoo.replace("/", "-"), cell.space, cell.sampler, cell.budget, cell.seed)
    run = runs / "-".join(map(str, parts))
    sampler = "random" if cell.sampler == REFERENCES else cell.sampler
    made = settings(Cell(cell.zoo, cell.space, sampler, cell.budget, cell.seed), config, run)
    with opened(made) as (session, executor):
        truth = Truth(session, executor, runs / f"truth-{parts[0]}")
        sources = tuple(made.models)
        if cell.sampler == REFERENCES:
            found = {
                "uniform": [reference_recipes(sources)["uniform"]],
                "greedy_soup": [greedy_soup(truth, sources)],
                "sweep": sweep_recipes(sources),
            }
            return [
                compared(Cell(cell.zoo, cell.space, name, cell.budget, cell.seed), truth, recipes)
                for name, recipes in found.items()
            ]
        result = search(session, executor)
        recipes = {trial.number: trial.recipe for trial in session.store.trials()}
        front = [recipes[number] for number in result.front]
        return [compared(cell, truth, front, result.trials, result.tokens, result.seconds)]


def compared(
    cell: Cell,
    truth: Truth,
    front: list[Recipe],
    trials: int = 0,
    tokens: int = 0,
    seconds: float = 0.0,
) -> Row:
    """Return a front's true values beside those of parents and the uniform average."""
    known = reference_recipes(tuple(truth.session.config.models))
    before = {name: truth.losses(recipe) for name, recipe in known.items()}
    volume_before = volume(list(before.values()))
    after = volume([*before.values(), *(truth.losses(recipe) for recipe in front)])
    chosen = min(front, key=lambda recipe: float(truth.losses(recipe, "select").mean()))
    ahead, error = truth.gain(chosen, known["uniform"])
    significant = 0 if abs(ahead) <= Z_95 * error else int(np.sign(ahead))
    return Row(
        **asdict(cell),
        dimensions=len(truth.session.space.roles),
        trials=trials,
        tokens=tokens,
        cpu_s=round(seconds, 1),
        front=len(front),
        volume=round(1e6 * (after - volume_before), 4),
        volume_before=round(1e6 * volume_before, 4),
        mean=round(float(truth.losses(chosen).mean()), 5),
        uniform=round(float(before["uniform"].mean()), 5),
        best_parent=round(
            min(float(row.mean()) for name, row in before.items() if name != "uniform"), 5
        ),
        ahead=round(ahead, 5),
        ahead_error=round(error, 5),
        significant=significant,
    )


def _key(row: Mapping[str, object]) -> tuple[str, ...]:
    sampler = str(row["sampler"])
    shown = REFERENCES if sampler in ("uniform", "greedy_soup", "sweep") else sampler
    return (*(str(row[key]) for key in ("zoo", "space", "budget", "seed")), shown)


if __name__ == "__main__":
    main()
