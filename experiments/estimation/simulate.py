"""Searches of a simulated landscape at equal numbers of items: fresh items or the same for all?

    OMP_NUM_THREADS=1 python -m experiments.estimation.simulate gp

The real samplers and estimates, on items that answer by formula. Every item of an objective has a
difficulty and tastes of its own, and is right or wrong by a smooth function of the recipe, without
noise; objectives have their optima in different places. Searches see a pool of 1,000 items an
objective; the truth is the mean over 20,000 others.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from automerge import pareto
from automerge.estimation.scoreboard import Scoreboard
from automerge.items import BASELINE_SHARES, ItemDraw
from automerge.methods import METHODS
from automerge.objective import ItemScores, Objective, estimates, joined, losses
from automerge.recipe import BASE
from automerge.samplers import SAMPLERS
from automerge.samplers.base import Told
from automerge.space import Knots, Space, build_space
from automerge.testing.spaces import plain_settings
from automerge.trial import Items
from experiments.estimation.results import read, save

Floats = NDArray[np.float64]
Scheme = Literal["control variates", "promotion", "fresh", "fixed"]

POOL, POPULATION = 1000, 20_000
ITEMS = 100
BUDGET = 160 * ITEMS
"""Items an objective of the smallest budget, baselines included."""
SHORTLIST = 12
PROMOTED = 0.2
"""With promotion, the share of the items that candidates on the believed front get once more."""
FEATURES = 48
TASTE = 1.0
"""Standard deviation of an item's own slope against that of its difficulty, 1."""
DEPTH_OF_CONFLICT = 2.2
"""What an average recipe loses against an objective's optimum, in standard difficulties."""
LANDSCAPES = {6: (3, 2, 3), 24: (4, 6, 2)}
"""Dimensions → sources, knots, objectives."""
SEEDS = {"cma": range(9), "gp": range(6)}
LARGEST = {"cma": 1000, "gp": 200}
"""Candidates of a search, at most: a proposal of `gp` costs more the more there are."""


@dataclass(frozen=True)
class Method:
    """How candidates are scored, on how many items each, and how many times the budget."""

    scheme: Scheme
    items: int
    times: float

    @property
    def name(self) -> str:
        return f"{self.scheme}, {self.items} items, budget × {self.times:g}"


METHODS_COMPARED = (
    Method("control variates", ITEMS, 1),
    Method("promotion", ITEMS, 1),
    Method("fresh", ITEMS, 1),
    Method("fixed", ITEMS, 1),
    Method("fixed", 3 * ITEMS, 1),
    Method("fixed", ITEMS, 3),
    Method("fixed", 3 * ITEMS, 3),
)


class Landscape:
    """Items' answers to recipes; positions are shares of the parameters' ranges."""

    def __init__(self, dimension: int, seed: int) -> None:
        n_sources, knots, n_objectives = LANDSCAPES[dimension]
        rng = np.random.default_rng([dimension, seed])
        sources = tuple(f"source{i}" for i in range(n_sources))
        settings = plain_settings("task_arithmetic", depth=Knots(knots))
        self.space: Space = build_space(settings, BASE, sources, 2 * knots, METHODS)
        self.dimension = len(self.space.roles)
        self.objectives = tuple(
            Objective(f"objective{i}", f"task{i}", "acc", "none", "maximize")
            for i in range(n_objectives)
        )
        shape = (n_objectives, self.dimension)
        self._optima = rng.uniform(0.15, 0.85, shape)
        scales = rng.lognormal(0, 0.5, shape)
        self._scales = scales / scales.sum(axis=1, keepdims=True)
        self._frequencies = rng.normal(0, 1.8, (FEATURES, self.dimension)) * np.sqrt(
            6 / self.dimension
        )
        self._phases = rng.uniform(0, 2 * np.pi, FEATURES)
        self._pool = [self._items(rng, POOL) for _ in range(n_objectives)]
        self._population = [self._items(rng, POPULATION) for _ in range(n_objectives)]
        # Base and sources: a recipe that is good at nothing, and those near one optimum each.
        near = self._optima + rng.normal(0, 0.25, shape)
        self.baselines = np.vstack([np.full(self.dimension, 0.5), np.clip(near, 0, 1)])

    def _items(self, rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
        """Difficulties (n,), and slopes along the features (features, n)."""
        slopes = rng.normal(0, TASTE * np.sqrt(2 / FEATURES), (FEATURES, n))
        return rng.normal(0, 1, n), slopes

    def answers(self, position: Floats, whole: bool = False) -> list[NDArray[np.bool_]]:
        """Which items of each objective are right: of the pool, or of the whole population."""
        x = position[: self.dimension]
        features = np.cos(self._frequencies @ x + self._phases)
        loss = (self._scales * (x - self._optima) ** 2).sum(axis=1) * DEPTH_OF_CONFLICT / 0.14
        items = self._population if whole else self._pool
        return [
            1.0 - lost - difficulty + features @ slopes > 0
            for lost, (difficulty, slopes) in zip(loss, items, strict=True)
        ]

    def truth(self, position: Floats) -> Floats:
        """Losses over the population, (objectives,)."""
        return -np.array([right.mean() for right in self.answers(position, whole=True)])


def search(landscape: Landscape, sampler_name: str, method: Method, seed: int) -> dict[str, float]:
    """One search; the true hypervolume of its shortlist, and how far its scores flatter it."""
    objectives, space = landscape.objectives, landscape.space
    fixed, promotes = method.scheme == "fixed", method.scheme == "promotion"
    controlled = promotes or method.scheme == "control variates"
    baselines = landscape.baselines
    shares = 1 if fixed else BASELINE_SHARES
    affordable = round(BUDGET * method.times / method.items)
    n_searched = round((1 - PROMOTED * promotes) * affordable) - shares * len(baselines)
    pool = {o.task: tuple(range(POOL)) for o in objectives}
    draw = ItemDraw({o.name: (o.task,) for o in objectives}, method.items, seed)
    sampler = SAMPLERS[sampler_name](space, len(objectives), seed, n_searched)
    positions: list[Floats] = []
    seen: list[dict[str, ItemScores]] = []
    board = _board(objectives, [], [])

    def scored(position: Floats, items: Items) -> dict[str, ItemScores]:
        return {
            o.name: ItemScores(
                tuple((o.task, i) for i in items[o.task]),
                tuple(right[list(items[o.task])].astype(float).tolist()),
            )
            for o, right in zip(objectives, landscape.answers(position), strict=True)
        }

    started = time.process_time()
    n_promoted = 0
    for number in range(len(baselines) + n_searched):
        first = number < len(baselines)
        wanted = baselines[number] if first else None
        params = sampler.ask(number) if wanted is None else space.at(_whole(space, wanted))
        positions.append(space.position(params))
        items = draw.draw(pool, 0 if fixed else number, shares if first else 1)
        seen.append(scored(positions[-1], items))
        board.add(positions[-1], seen[-1])
        told = board.estimates(number) if controlled else estimates(objectives, seen[-1])
        errors = tuple(told[o.name].stderr for o in objectives)
        sampler.tell(number, params, Told(losses(objectives, told), errors))
        if promotes and n_promoted < PROMOTED * (number + 1) and not first:
            chosen = _promoted(objectives, board, seen, len(baselines))
            known = {o.task: {i for _, i in seen[chosen][o.name].items} for o in objectives}
            left = {task: tuple(i for i in pool[task] if i not in known[task]) for task in pool}
            fresh = scored(positions[chosen], draw.draw(left, 10**6 + number))
            seen[chosen] = {n: joined([s, fresh[n]]) for n, s in seen[chosen].items()}
            board = _board(objectives, positions, seen)
            n_promoted += 1
    seconds = time.process_time() - started
    values = [
        board.estimates(i) if controlled else estimates(objectives, seen[i])
        for i in range(len(positions))
    ]
    believed = np.array([losses(objectives, value) for value in values])
    searched = np.arange(len(baselines), len(positions))
    bound = pareto.reference_point(believed)
    chosen = searched[pareto.greedy_subset(believed[searched], SHORTLIST, bound)]
    true = np.array([landscape.truth(positions[i]) for i in chosen])
    return {
        "hypervolume": pareto.hypervolume(true, reference(landscape)),
        "optimism": float((true - believed[chosen]).mean()),
        "candidates": n_searched,
        "seconds": round(seconds, 1),
    }


def _board(
    objectives: Sequence[Objective],
    positions: Sequence[Floats],
    scores: Sequence[Mapping[str, ItemScores]],
) -> Scoreboard:
    """A scoreboard that holds these candidates."""
    items = {o.name: [(o.task, i) for i in range(POOL)] for o in objectives}
    board = Scoreboard(objectives, items)
    for position, own in zip(positions, scores, strict=True):
        board.add(position, own)
    return board


def _promoted(
    objectives: Sequence[Objective],
    board: Scoreboard,
    seen: Sequence[Mapping[str, ItemScores]],
    n_baselines: int,
) -> int:
    """The candidate on the believed front that has seen fewest items, of several the last."""
    numbers = range(n_baselines, len(seen))
    rows = np.array([losses(objectives, board.estimates(n)) for n in numbers])
    front = [n for n, kept in zip(numbers, pareto.nondominated(rows), strict=True) if kept]
    name = objectives[0].name
    return min(front, key=lambda n: (len(seen[n][name].items), -n))


def _whole(space: Space, shares: Floats) -> Floats:
    """A position of the only branch there is."""
    return np.append(shares, space.codes[0])


def reference(landscape: Landscape) -> Floats:
    """Where hypervolume begins: the worst of the baselines in each objective."""
    return np.asarray(np.array([landscape.truth(x) for x in landscape.baselines]).max(axis=0))


def main(sampler: str) -> None:
    section = f"simulation, {sampler}"
    known = read().get(section, {})
    assert isinstance(known, dict)
    done: dict[str, dict[str, float]] = {**known}
    for seed, dimension, method in product(SEEDS[sampler], LANDSCAPES, METHODS_COMPARED):
        key = f"d = {dimension} | {method.name} | {seed}"
        if key not in done and BUDGET * method.times / method.items <= LARGEST[sampler]:
            done[key] = search(Landscape(dimension, seed), sampler, method, seed)
            save(section, done)
            print(key, done[key], flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
