"""Differential evolution, as in Evolver and in MM-MO's proposals, for several objectives."""

from __future__ import annotations

import numpy as np

from automerge.arrays import Floats, Indices
from automerge.pareto import layers
from automerge.samplers import moves
from automerge.samplers.base import Sampler, Told
from automerge.samplers.memory import Memory
from automerge.samplers.random import draw
from automerge.space import Space
from automerge.trial import Params

POPULATION_SHARE, MIN_POPULATION, MAX_POPULATION = 0.2, 6, 40
"""Size of the population: a share of the budget, within bounds."""
DIFFERENCE, CROSSOVER = 0.5, 0.5
"""F and CR, the factor of differences and the probability that a coordinate is changed."""
N_BEST = 5
"""How many of the best of the population a mutation may begin at."""
SPREAD = 0.02
"""Standard deviation that is added to a mutation, in standard deviations of the prior, so that
copies in the population do not end the search."""


class DeSampler(Sampler):
    """Differential evolution (Storn and Price 1997) over merges.

    Evolver (Du et al. 2024, arXiv:2406.12208) evolves models so, and MM-MO (Li et al. 2024,
    arXiv:2407.00487) mutates its best proposals so: a + F (b − c), crossed with another one. Here
    merges evolve in the coordinates of the space, so that nobody need keep a population of models.
    What is better of several objectives is decided as in DEMO (Robič and Filipič 2005): parents and
    offspring share a population, which loses its most dominated member, and of those the most
    crowded.

    It never waits: an offspring joins when it is told. The first trials, told like all others, are
    the beginning of the population.
    """

    def __init__(self, space: Space, n_objectives: int, seed: int, budget: int) -> None:
        self._space = space
        self._seed = seed
        self._memory = Memory(space, n_objectives)
        size = round(POPULATION_SHARE * budget)
        self._size = min(max(size, MIN_POPULATION), MAX_POPULATION)
        self._population: list[int] = []
        """Rows of the memory, in no order."""

    def ask(self, number: int) -> Params:
        """Propose parameters for trial `number`."""
        rng = np.random.default_rng([self._seed, number])
        begun = len(self._population) + len(self._memory.pending)
        if begun < self._size or len(self._population) < MIN_POPULATION:
            methods = self._space.turns
            method = methods[self._memory.asked % len(methods)]
            params = draw(self._space, rng, {self._space.method.name: method})
        else:
            params = self._space.at(self._offspring(rng))
        self._memory.note(number, params)
        return params

    def repeat(self, number: int, params: Params) -> bool:
        """Note an earlier proposal: later ones depend on what was told, not on how it came."""
        self._memory.note(number, params)
        return True

    def tell(self, number: int, params: Params | None, told: Told | None) -> None:
        """Report a trial."""
        before = len(self._memory)
        self._memory.enter(number, params, told)
        self._population.extend(range(before, len(self._memory)))
        if len(self._population) > self._size:
            losses = self._memory.losses[self._population]
            del self._population[by_rank(losses)[-1]]

    def _offspring(self, rng: np.random.Generator) -> Floats:
        rows = np.array(self._population)
        ranked = rows[by_rank(self._memory.losses[rows])]
        points = self._memory.points
        target, best = points[rng.choice(rows)], points[ranked[rng.integers(N_BEST)]]
        b, c = points[rng.choice(rows, 2, replace=False)]
        d = len(self._space.roles)
        spread = SPREAD * self._space.scales * rng.standard_normal(d)
        mutated = best[:d] + DIFFERENCE * (b - c)[:d] + spread
        changed = rng.random(d) < CROSSOVER
        changed[rng.integers(d)] = True
        shares = np.where(changed, moves.reflected(mutated), target[:d])
        branch = best if rng.random() < CROSSOVER else target
        return np.append(shares, branch[d:])


def by_rank(losses: Floats) -> list[int]:
    """Sort rows (n, m) by front, and within a front by crowding, the least crowded first."""
    return [int(row) for front in layers(losses) for row in front[_by_crowding(losses[front])]]


def _by_crowding(losses: Floats) -> Indices:
    """Sort rows by their crowding distance (Deb et al. 2002), the largest first; ties by row."""
    distance = np.zeros(len(losses))
    for column in losses.T:
        order = np.argsort(column, kind="stable")
        span = float(np.ptp(column)) or 1.0
        distance[order[[0, -1]]] = np.inf
        distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    return np.argsort(-distance, kind="stable")
