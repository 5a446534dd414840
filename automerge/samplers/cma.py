"""CMA-ES, steady state, over conditional spaces and several objectives."""

from __future__ import annotations

import math
import warnings
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from automerge.arrays import Floats
from automerge.pareto import updated_front
from automerge.samplers.base import Sampler, Told
from automerge.samplers.random import draw
from automerge.samplers.scalarise import chebyshev, directions
from automerge.space import Space
from automerge.trial import Params

POPULATION_SIZE = 6
INITIAL_FRACTION = 0.25
"""Of the budget, spent on random points, the methods in turn."""
INITIAL_STD = 0.2
"""First standard deviation of a coordinate, about a fifth of a parameter's range."""
MIN_STD, MAX_STD = 0.02, 1.0
MAX_START = 1.0
"""How far from the middle a run may start; further out the bounds flatten the map."""
PRIOR_FRACTION = 0.03
"""Weight of the prior in the branch probabilities after every update."""
LEARNING_RATE = 0.3
"""Of the branch probabilities."""
N_ELITE = 2
"""The archive's best points for a direction, told again with every batch, whoever asked them."""


@dataclass(frozen=True, slots=True)
class Point:
    """A point of the space: a branch's number and the coordinates of all roles, (roles,)."""

    branch: int
    vector: Floats


class Archive:
    """What succeeded so far, grown point by point."""

    def __init__(self, n_objectives: int) -> None:
        self.front: Floats = np.empty((0, n_objectives))
        """Nondominated losses so far, (k, objectives); they set the scale of the objectives."""
        self.points: list[Point] = []
        """Successes that the space can express, in the order they came."""
        self._losses = array("d")

    def add(self, point: Point | None, losses: Floats) -> None:
        """Enter a success; `point` is None for what the space cannot express."""
        self.front = updated_front(self.front, losses)
        if point is not None:
            self.points.append(point)
            self._losses.extend(losses)

    def rank(self, losses: Floats, weights: Floats) -> Floats:
        """Return values of losses (n, m) in a direction, smaller is better: shape (n,)."""
        return chebyshev(losses, weights, self.front)

    def best(self, weights: Floats) -> Iterator[tuple[Point, float]]:
        """Yield all points with their values in a direction, best first; ties by age."""
        losses = np.array(self._losses).reshape(-1, len(weights))
        values = self.rank(losses, weights)
        return ((self.points[i], float(values[i])) for i in np.argsort(values, kind="stable"))


@dataclass
class _Run:
    """One direction's search: pycma over the roles, and a probability for each branch."""

    strategy: Any
    probabilities: Floats
    rng: np.random.Generator
    fresh: bool = True
    """Whether pycma was asked since it was last told."""
    arrived: list[tuple[Point, Floats | None]] = field(default_factory=list)


class CmaSampler(Sampler):
    """CMA-ES (Hansen and Ostermeier 2001, through pycma), one run per direction.

    Several objectives are scalarised (augmented Chebyshev) in a few directions: this is not
    MO-CMA-ES, but runs that share one archive, which sets the scale of the
    objectives and where runs start. They take turns.

    Methods share coordinates (see `Space`), so a run keeps its distribution whichever method it
    tries, and learns beside it a probability for each branch by the same recombination weights
    (population-based incremental learning, Baluja 1994; cf. CatCMA, Hamano et al. 2024). A floor
    keeps every branch possible. Switches are signs of coordinates whose deviation never falls
    below `MIN_STD`.

    It never waits: a run is told as soon as any `POPULATION_SIZE` of its points have arrived,
    whatever generation they are from, together with the archive's best for its direction, so that
    runs learn from each other; pycma shortens steps that its distribution would not have made
    (Hansen 2011, arXiv:1110.4181). A failure ranks behind all that succeeded with it; a batch of
    failures only is dropped, as it orders nothing.
    """

    def __init__(self, space: Space, n_objectives: int, seed: int, budget: int) -> None:
        self._space = space
        self._seed = seed
        self._directions = directions(n_objectives)
        self._probes = max(round(INITIAL_FRACTION * budget), len(space.turns))
        self._prior = space.prior
        self._branches = {branch: i for i, branch in enumerate(space.branches)}
        self._runs: list[_Run | None] = [None] * len(self._directions)
        self._archive = Archive(n_objectives)
        self._pending: dict[int, tuple[int, Point]] = {}
        self._asked = 0

    def ask(self, number: int) -> Params:
        """Propose parameters for trial `number`."""
        turn, self._asked = self._asked, self._asked + 1
        if turn < self._probes or not self._archive.points:
            method = self._space.turns[turn % len(self._space.turns)]
            rng = np.random.default_rng([self._seed, number])
            return draw(self._space, rng, {self._space.method.name: method})
        direction = turn % len(self._directions)
        run = self._runs[direction] = self._runs[direction] or self._start(direction)
        vector = np.array(run.strategy.ask(1)[0])
        run.fresh = True
        branch = int(run.rng.choice(len(self._prior), p=run.probabilities))
        self._pending[number] = direction, Point(branch, vector)
        return self._space.from_vector(self._space.branches[branch], vector)

    def tell(self, number: int, params: Params | None, told: Told | None) -> None:
        """Report a trial; losses that are not finite are a failure."""
        measured = told is not None and told.is_finite
        values = np.array(told.losses, dtype=np.float64) if told and measured else None
        asked = self._pending.pop(number, None)
        if values is not None:
            point = self._point(params) if asked is None else asked[1]
            self._archive.add(point, values)
        if asked is None:
            return
        direction, point = asked
        run = self._runs[direction]
        assert run is not None
        run.arrived.append((point, values))
        if len(run.arrived) == POPULATION_SIZE:
            self._update(run, self._directions[direction])

    def _point(self, params: Params | None) -> Point | None:
        if params is None:
            return None
        branch = self._branches[self._space.branch(params)]
        return Point(branch, self._space.to_vector(params))

    def _start(self, direction: int) -> _Run:
        """Begin at the archive's best point, with the branches of its best quarter."""
        points = [point for point, _ in self._archive.best(self._directions[direction])]
        frequent = self._frequencies(points[: max(1, len(points) // 4)])
        rng = np.random.default_rng([self._seed, self._asked, direction])
        start = np.clip(points[0].vector, -MAX_START, MAX_START)
        return _Run(_strategy(start, rng), (self._prior + frequent) / 2, rng)

    def _frequencies(self, points: Sequence[Point]) -> Floats:
        """Return how often branches occur among points, best first, by recombination weights."""
        branches = [point.branch for point in points]
        counts = np.bincount(branches, _recombination(len(points)), len(self._prior))
        return counts.astype(np.float64)

    def _update(self, run: _Run, weights: Floats) -> None:
        arrived, run.arrived = run.arrived, []
        ranked = [losses for _, losses in arrived if losses is not None]
        if not ranked:
            return
        # A failure ranks behind every success of its batch; CMA-ES uses ranks alone.
        finite = self._archive.rank(np.array(ranked), weights)
        values = np.full(len(arrived), finite.max() + 1)
        values[[losses is not None for _, losses in arrived]] = finite
        new = [point for point, _ in arrived]
        best = self._archive.best(weights)
        older = (entry for entry in best if all(entry[0] is not point for point in new))
        elite = list(islice(older, N_ELITE))
        points = [*new, *(point for point, _ in elite)]
        values = np.append(values, [value for _, value in elite])
        if not run.fresh:
            run.strategy.ask(1)  # pycma wants an ask between two tells
        run.strategy.tell([point.vector for point in points], values.tolist())
        run.fresh = False
        order = np.argsort(values, kind="stable")[: len(points) // 2]
        frequent = self._frequencies([points[i] for i in order])
        # p ← (1 − η) p + η q (Baluja 1994), then mixed with the prior, so that no p falls to 0.
        learned = (1 - LEARNING_RATE) * run.probabilities + LEARNING_RATE * frequent
        run.probabilities = (1 - PRIOR_FRACTION) * learned + PRIOR_FRACTION * self._prior


def _recombination(mu: int) -> Floats:
    """Return `mu` positive weights that fall with rank and sum to 1: shape (mu,)."""
    # Hansen 2016, arXiv:1604.00772, eq. 49, where λ = 2 μ: w_i ∝ ln((λ + 1) / 2) − ln i.
    weights = math.log(mu + 0.5) - np.log(np.arange(1, mu + 1))
    return np.asarray(weights / weights.sum())


def _strategy(mean: Floats, rng: np.random.Generator) -> Any:
    """Return a pycma optimiser that draws from its own generator only and prints nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pycma warns at import where matplotlib is missing
        import cma

    def randn(*shape: int) -> NDArray[np.float64]:
        return rng.standard_normal(shape)

    options = {
        "randn": randn,
        "seed": math.nan,
        "popsize": POPULATION_SIZE,
        "CMA_mirrors": 0,
        "minstd": MIN_STD,
        "maxstd": MAX_STD,
        "verbose": -9,
        "verb_log": 0,
    }
    return cma.CMAEvolutionStrategy(mean, INITIAL_STD, options)
