"""What `search.cheap_first` saves where the truth is known: the real loop, with scores by formula.

    python -m experiments.cheap_first.simulate --seeds 12

Two sources, of which one is good at a cheap task and the other at a generated one, and a bound on
the cheap task. A model answers an item where a number that belongs to the item is below the model's
true level, so that models' scores on the same items go together, as real ones do.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from automerge import pareto
from automerge.constraint import Constraint
from automerge.evaluation.base import Scored
from automerge.executors.local import LocalExecutor
from automerge.items import ItemDraw, Sealed, StudyItems
from automerge.methods import METHODS
from automerge.objective import ItemScores, Objective
from automerge.recipe import Profile, Recipe, single, uniform_average
from automerge.samplers import SAMPLERS
from automerge.space import build_space
from automerge.store.store import Store
from automerge.study import Driver, FirstTrial, Limits, Plan, Snapshot
from automerge.testing.spaces import plain_settings
from automerge.testing.studies import plain_record
from automerge.trial import Items, Job, Measured, Outcome, Part, Timings
from automerge.worker.gate import score_in_order

SOURCES = ("a", "b")
OBJECTIVES = (
    Objective("cheap", "cheap", "acc", "none", "maximize"),
    Objective("dear", "dear", "exact_match", "none", "maximize"),
)
BEST = {"cheap": (0.9, 0.3), "dear": (0.3, 0.9)}
"""The sources' weights at which an objective is best."""
WIDTH = 0.5
"""How soon a level falls about its best: broken merges are not rare, as in real searches."""
BOUND = "cheap >= best_parent - 0.1"
CORNER = (0.4, 0.6)
"""Losses that bound the fronts' volume: a wrong share above these counts nothing."""
TOKENS = {"cheap": 100, "dear": 400}
"""What an item takes, about as in multiple choice and in arithmetic word problems."""
POOL, FINAL = 400, 200
"""Search items, and select and test items, a task."""
N_LAYERS = 4


class Unwatched:
    """Shows nothing."""

    def update(self, snapshot: Snapshot) -> None: ...

    def note(self, message: str) -> None: ...


@dataclass(frozen=True)
class Simulation:
    """A worker whose models' true levels are known."""

    def identity(self) -> dict[str, str]:
        """Return nothing that two could differ in."""
        return {}

    def prepare(self, part: Part) -> None: ...

    def measure(self, job: Job) -> Outcome:
        """Score items by formula, in the gate's order where there is one."""

        def score(items: Items) -> Scored:
            tokens = sum(TOKENS[task] * len(ids) for task, ids in items.items())
            return Scored(
                {o.name: scores(level(job.recipe, o.name), o.task, items) for o in OBJECTIVES},
                tokens=tokens,
            )

        named = {o.name: o for o in OBJECTIVES}
        scored = (
            score(job.items)
            if job.gate is None
            else score_in_order(score, job.items, job.gate, named)
        )
        timings = Timings(0.0, 0.0, 0.0, 0.0)
        return Measured(scored.scores, timings, tokens=scored.tokens, notes=scored.notes)


def level(recipe: Recipe, objective: str) -> float:
    """Return the share of all items that a recipe's model answers rightly."""
    weights = {s.name: _mean(s.knobs["weight"]) for s in recipe.sources}
    total = sum(weights.values()) if recipe.method == "linear" else 1.0
    distance = sum(
        (weights.get(name, 0.0) / total - best) ** 2
        for name, best in zip(SOURCES, BEST[objective], strict=True)
    )
    return 0.3 + 0.5 * math.exp(-distance / WIDTH)


def _mean(profile: Profile) -> float:
    return statistics.mean(knot for _, knots in profile.parts for knot in knots)


def scores(right: float, task: str, items: Items) -> ItemScores:
    """Return 1 for items below a level, which of a model's answers are that."""
    ids = items.get(task, ())
    values = tuple(float(_difficulty(task, doc) < right) for doc in ids)
    return ItemScores(tuple((task, doc) for doc in ids), values)


def _difficulty(task: str, doc: int) -> float:
    """Return an item's number in [0, 1)."""
    digest = hashlib.sha256(f"{task} {doc}".encode()).digest()
    return int.from_bytes(digest[:8], "little") / 2**64


@dataclass(frozen=True)
class Outcomes:
    """What a search came to: its front, the front's true volume, and what was run."""

    front: tuple[str, ...]
    volume: float
    tokens: int
    generated: int
    left_out: int


def search(sampler: str, seed: int, cheap_first: bool, budget: int, per_candidate: int) -> Outcomes:
    """Search the simulation once."""
    names = tuple(TOKENS)
    items: Items = {name: tuple(range(POOL)) for name in names}
    final: Items = {name: tuple(range(POOL, POOL + FINAL)) for name in names}
    test: Items = {name: tuple(range(POOL + FINAL, POOL + 2 * FINAL)) for name in names}
    first = (
        FirstTrial("base", "base", single("base")),
        *(FirstTrial(name, "source", single(name)) for name in SOURCES),
        FirstTrial("uniform", "uniform", uniform_average(SOURCES)),
    )
    plan = Plan(
        OBJECTIVES,
        (Constraint.parse(BOUND),),
        first,
        StudyItems(items, final, Sealed(test)),
        ItemDraw({name: (name,) for name in names}, per_candidate, seed),
        Limits(budget),
        shortlist=12,
        resolution=0.02,
        slopes=False,
        dear=("dear",) if cheap_first else (),
    )
    space = build_space(plain_settings("task_arithmetic"), "base", SOURCES, N_LAYERS, METHODS)
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder), write=True) as store:
        store.begin(plain_record(plan, SOURCES, N_LAYERS))
        Driver(
            store,
            plan,
            space,
            SAMPLERS[sampler](space, len(OBJECTIVES), seed, budget),
            lambda: LocalExecutor(Simulation),
            Unwatched(),
            lambda: False,
        ).run()
        trials = store.trials()
        measured = [o for o in store.outcomes("search").values() if isinstance(o, Measured)]
        front = [trials[number] for number in store.study.decided.front or ()]
    losses = [[1 - level(trial.recipe, o.name) for o in OBJECTIVES] for trial in front]
    return Outcomes(
        front=tuple(sorted(trial.recipe.id for trial in front)),
        volume=pareto.hypervolume(np.array(losses).reshape(-1, len(OBJECTIVES)), CORNER),
        tokens=sum(outcome.tokens for outcome in measured),
        generated=sum(len(outcome.scores["dear"].items) for outcome in measured),
        left_out=sum(bool(outcome.left_out) for outcome in measured),
    )


def summary(sampler: str, pairs: Sequence[tuple[Outcomes, Outcomes]]) -> str:
    """Return a row of the table: means over seeds, with their standard errors."""
    left_out = [part.left_out for _, part in pairs]
    tokens = [part.tokens / whole.tokens for whole, part in pairs]
    generated = [part.generated / whole.generated for whole, part in pairs]
    change = [100 * (part.volume / whole.volume - 1) for whole, part in pairs]
    same = sum(part.front == whole.front for whole, part in pairs)
    cells = (
        sampler,
        _with_error(left_out, 1),
        _with_error(generated, 3),
        _with_error(tokens, 3),
        f"{same} of {len(pairs)}",
        f"{_with_error(change, 2)} %",
    )
    return "| " + " | ".join(cells) + " |"


def _with_error(values: Sequence[float], digits: int) -> str:
    error = statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):.{digits}f} ± {error:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samplers", nargs="+", default=["random", "cma"])
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--budget", type=int, default=60)
    parser.add_argument("--items", type=int, default=100)
    options = parser.parse_args()
    print("| sampler | trials left out | generated items | tokens | same front | front's volume |")
    print("|---|---|---|---|---|---|")
    for sampler in options.samplers:
        pairs = [
            (
                search(sampler, seed, False, options.budget, options.items),
                search(sampler, seed, True, options.budget, options.items),
            )
            for seed in range(options.seeds)
        ]
        print(summary(sampler, pairs), flush=True)


if __name__ == "__main__":
    main()
