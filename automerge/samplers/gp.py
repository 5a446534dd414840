"""Bayesian optimisation over conditional spaces and any number of objectives."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from automerge.pareto import Floats, nondominated
from automerge.samplers.base import Sampler
from automerge.samplers.gaussian_process import Hyperparameters, condition, fit
from automerge.samplers.random import draw
from automerge.space import Space
from automerge.trial import Params

PROBED = 10
"""Least number of random points before the first model; half the dimensions where that is more."""
LEAST = 3
"""Points a model needs."""
REFITTED = 1.1
"""Hyperparameters are searched anew when there are that many times the points."""
FITTED = 300
"""Points they are searched with, at most."""
CONDITIONED, ELSEWHERE = 1500, 300
"""Points a model knows at most, since it costs their cube: the best, and these many of the rest."""
N_UNIFORM, N_LOCAL = 200, 500
"""Candidates a proposal is chosen from: drawn anywhere, and near the front."""
N_DRAWS, N_DIRECTIONS = 16, 64
N_BEST = 40
"""How many of the best points, beyond the front, improvements are measured against."""
STEPS = (0.03, 0.08, 0.2)
"""Standard deviations of local moves, in shares of a parameter's range."""
MOVED = 6
"""Coordinates a local move changes, about."""
CROSSED = 0.5
"""Share of local moves that begin between two parents."""
SWITCHED = 0.1
"""Share of local moves that go to another method or set of models."""
MARGIN = 0.1
"""Of the front's range, between its worst losses and the reference point."""


class GpSampler(Sampler):
    """Gaussian processes, one an objective, and noisy expected hypervolume improvement.

    Improvement is estimated with posterior draws and random hypervolume scalarisation (Zhang and
    Golovin 2020, arXiv:2006.04655), against what the same draw says of the best points measured
    and of those still being measured (cf. Daulton et al. 2021, arXiv:2105.08195). So noise earns
    no point a place that its neighbours do not grant, and it never waits.

    Methods share coordinates (see `Space`); which method and which models is coded beside them.
    It computes with one thread: beside workers that keep the processors busy, several of BLAS's
    wait for each other, and a proposal takes twenty times as long.
    """

    def __init__(self, space: Space, n_objectives: int, seed: int, budget: int) -> None:
        self._space = space
        self._seed = seed
        self._probes = max(PROBED, len(space.roles) // 2, len(space.methods))
        self._groups = groups(space)
        self._points: list[Floats] = []
        self._losses: list[Floats] = []
        self._pending: dict[int, Floats] = {}
        self._failed: list[Floats] = []
        self._asked = 0
        self._fitted = 0
        self._threads = ThreadpoolController()

    def ask(self, number: int) -> Params:
        """Propose parameters for trial `number`."""
        rng = np.random.default_rng([self._seed, number])
        if self._probing:
            method = tuple(self._space.methods)[self._asked % len(self._space.methods)]
            params = draw(self._space, rng, {self._space.method.name: method})
        else:
            with self._threads.limit(limits=1, user_api="blas"):
                params = self._space.at(self._best(rng))
        self._note(number, params)
        return params

    def repeat(self, number: int, params: Params) -> bool:
        """Note an earlier proposal: a later one depends on hyperparameters, not on how it came."""
        if not self._probing:
            self._schedule()
        self._note(number, params)
        return True

    @property
    def _probing(self) -> bool:
        return self._asked < self._probes or len(self._points) < LEAST

    def _note(self, number: int, params: Params) -> None:
        self._asked += 1
        self._pending[number] = self._space.position(params)

    def tell(self, number: int, params: Params | None, losses: Sequence[float] | None) -> None:
        """Report a trial; losses that are not finite are a failure, which earns nothing again."""
        point = self._pending.pop(number, None)
        if point is None and params is not None:
            point = self._space.position(params)
        if point is None:
            return
        if losses is None or not np.isfinite(losses).all():
            self._failed.append(point)
        else:
            self._points.append(point)
            self._losses.append(np.array(losses, dtype=np.float64))

    def _best(self, rng: np.random.Generator) -> Floats:
        """The candidate of the largest expected improvement."""
        points, losses = np.array(self._points), tamed(np.array(self._losses))
        if len(points) > CONDITIONED:
            kept = self._kept(losses, rng)
            points, losses = points[kept], losses[kept]
        self._schedule()
        posteriors = [
            condition(points, column, self._groups, hyperparameters)
            for column, hyperparameters in zip(losses.T, self._hyperparameters, strict=True)
        ]
        means = np.column_stack([posterior.fitted for posterior in posteriors])
        front = np.flatnonzero(nondominated(means))
        ideal = means[front].min(axis=0)
        span = np.ptp(means[front], axis=0)
        span = np.where(span > 0, span, 1.0)
        ranked = np.argsort(((means - ideal) / span).mean(axis=1), kind="stable")
        rivals = points[list(dict.fromkeys([*front, *ranked[:N_BEST]]))]
        known = np.vstack([rivals, *self._pending.values(), *self._failed[-N_BEST:]])
        new = self._candidates(points[front], rng)
        heights: list[tuple[Floats, Floats]] = []
        for posterior, best, width in zip(posteriors, ideal, span, strict=True):
            normal = rng.standard_normal((N_DRAWS, len(known) + 1))
            there, here = posterior.draw(known, new, normal)
            heights.append(
                (1 + MARGIN - (there - best) / width, 1 + MARGIN - (here - best) / width)
            )
        directions = np.abs(rng.standard_normal((N_DIRECTIONS, len(heights))))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        gained = improvement([h for h, _ in heights], [h for _, h in heights], directions)
        return np.asarray(new[int(np.argmax(gained))])

    def _kept(self, losses: Floats, rng: np.random.Generator) -> NDArray[np.intp]:
        """The front, the best in the mean of all objectives, and some of the others, in order."""
        span = np.ptp(losses, axis=0)
        height = ((losses - losses.min(axis=0)) / np.where(span > 0, span, 1.0)).mean(axis=1)
        height[nondominated(losses)] -= 1.0
        order = np.argsort(height, kind="stable")
        best, rest = np.split(order, [CONDITIONED - ELSEWHERE])
        return np.sort(np.concatenate([best, rng.choice(rest, ELSEWHERE, replace=False)]))

    def _schedule(self) -> None:
        """Have hyperparameters searched anew where it is time to."""
        if len(self._points) >= REFITTED * self._fitted:
            self._fitted = len(self._points)
            self.__dict__.pop("_hyperparameters", None)

    @cached_property
    def _hyperparameters(self) -> list[Hyperparameters]:
        """One an objective, from what was known when they were last due, whenever that is asked."""
        points = np.array(self._points[: self._fitted])
        losses = tamed(np.array(self._losses[: self._fitted]))
        rng = np.random.default_rng([self._seed, self._fitted])
        some = rng.permutation(self._fitted)[:FITTED]
        return [fit(points[some], column[some], self._groups) for column in losses.T]

    def _candidates(self, parents: Floats, rng: np.random.Generator) -> Floats:
        """Points drawn anywhere, and moved from parents or from the line between two of them."""
        d = len(self._space.roles)
        chosen = rng.integers(len(parents), size=(2, N_LOCAL))
        first, second = parents[chosen[0]], parents[chosen[1]]
        along = rng.uniform(0, 1, (N_LOCAL, 1)) * (rng.random((N_LOCAL, 1)) < CROSSED)
        moved = rng.random((N_LOCAL, d)) < MOVED / max(d, MOVED)
        steps = rng.choice(STEPS, size=(N_LOCAL, 1)) * rng.standard_normal((N_LOCAL, d))
        near = first[:, :d] + along * (second[:, :d] - first[:, :d]) + moved * steps
        # Reflected at the bounds: clipped there, they would crowd where losses may be steep.
        shares = np.vstack([rng.random((N_UNIFORM, d)), 1 - np.abs(1 - np.abs(near))])
        branches = rng.choice(len(self._space.prior), len(shares), p=self._space.prior)
        stays = rng.random(N_LOCAL) >= SWITCHED
        branches[N_UNIFORM:][stays] = self._space.branch_numbers(first[stays])
        drawn = np.hstack([shares, self._space.codes[branches]])
        # Where they will lie once measured, so that what is inactive tells nothing apart.
        return self._space.settled(drawn)


def groups(space: Space) -> tuple[int, ...]:
    """The length scale of each number of a position: one a role, one for methods, one a source."""
    d, n_methods = len(space.roles), len(space.methods)
    return (*range(d), *[d] * n_methods, *range(d + 1, d + 1 + len(space.sources)))


def tamed(losses: Floats) -> Floats:
    """Losses with their worse halves on a logarithmic scale, so that ruined merges (a perplexity of
    10⁶) do not set the scale of all others. Monotone, and the identity below the median."""
    middle = np.median(losses, axis=0)
    unit = middle - losses.min(axis=0)
    unit = np.where(unit > 0, unit, 1.0)
    worse = np.maximum(losses - middle, 0.0)
    return np.asarray(np.minimum(losses, middle) + unit * np.log1p(worse / unit))


def improvement(known: Sequence[Floats], new: Sequence[Floats], directions: Floats) -> Floats:
    """Expected hypervolume gained by each new point, up to a constant: (k,).

    `known` (draws, b) and `new` (draws, k) are heights above the reference point, an array an
    objective. Hypervolume is the mean over directions of max_y min_i (y_i / λ_i)^m (Zhang and
    Golovin 2020, lemma 5).
    """
    total = np.zeros(new[0].shape[1])
    for direction in directions:
        reached = lowest(new, direction)
        best = lowest(known, direction).max(axis=1, keepdims=True)
        m = len(direction)
        total += (np.maximum(reached, best) ** m - best**m).sum(axis=0)
    return total


def lowest(heights: Sequence[Floats], direction: Floats) -> Floats:
    """min_i max(y_i, 0) / λ_i, elementwise."""
    scaled = heights[0] / direction[0]
    for height, weight in zip(heights[1:], direction[1:], strict=True):
        np.minimum(scaled, height / weight, out=scaled)
    return np.asarray(np.maximum(scaled, 0.0))
