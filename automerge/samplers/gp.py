"""Bayesian optimisation over conditional spaces and any number of objectives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from automerge.arrays import Floats
from automerge.pareto import nondominated
from automerge.samplers.base import Sampler, Told
from automerge.samplers.gaussian_process import Hyperparameters, condition, fit
from automerge.samplers.random import draw
from automerge.space import UNIFORM_SCALE, Space, prior_fractions
from automerge.trial import Params

N_INITIAL = 10
"""Random points before the first model, at least; half the dimensions where that is more."""
MIN_POINTS = 3
"""Points a model needs."""
REFIT_GROWTH = 1.1
"""Hyperparameters are searched again once the points have grown by this factor."""
MAX_FIT_POINTS = 300
"""Points hyperparameters are searched with, at most."""
MAX_POINTS, N_OTHERS = 1500, 300
"""Points a model is given at most, since it costs their cube: the best, and N_OTHERS others."""
N_UNIFORM, N_LOCAL = 200, 500
"""Candidates a proposal is chosen from: drawn anywhere, and near the front."""
N_DRAWS, N_DIRECTIONS = 16, 64
"""Posterior draws, and directions of scalarisation, that improvement is a mean over."""
N_BEST = 40
"""How many of the best points, beyond the front, improvements are measured against."""
LOCAL_STDS = (0.03, 0.08, 0.2)
"""Standard deviations of local moves, in fractions of a parameter's range where its prior is
uniform; in proportion to the prior's for the others."""
N_MOVED = 6
"""Coordinates a local move changes, on average."""
P_CROSSOVER = 0.5
"""Probability that a local move begins between two parents."""
P_SWITCH = 0.1
"""Probability that a local move goes to another method or set of models."""
REFERENCE_MARGIN = 0.1
"""Between the front's worst losses and the reference point, as a fraction of the front's range."""


class GpSampler(Sampler):
    """Gaussian processes, one per objective, and noisy expected hypervolume improvement.

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
        self._probes = max(N_INITIAL, len(space.roles) // 2, len(space.methods))
        self._groups = _length_groups(space)
        self._points: list[Floats] = []
        self._losses: list[Floats] = []
        self._pending: dict[int, Floats] = {}
        self._failed: list[Floats] = []
        self._asked = 0
        self._fit_size = 0
        """Number of points, of those told first, that hyperparameters are searched with."""
        self._fitted: tuple[int, list[Hyperparameters]] = (0, [])
        """Hyperparameters, one per objective, and the number of points they are from."""
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
        return self._asked < self._probes or len(self._points) < MIN_POINTS

    def _note(self, number: int, params: Params) -> None:
        self._asked += 1
        self._pending[number] = self._space.position(params)

    def tell(self, number: int, params: Params | None, told: Told | None) -> None:
        """Report a trial; losses that are not finite are a failure, which earns nothing again."""
        point = self._pending.pop(number, None)
        if point is None and params is not None:
            point = self._space.position(params)
        if point is None:
            return
        if told is None or not told.is_finite:
            self._failed.append(point)
        else:
            self._points.append(point)
            self._losses.append(np.array(told.losses, dtype=np.float64))

    def _best(self, rng: np.random.Generator) -> Floats:
        """Return the candidate of the largest expected improvement, as a position."""
        points, losses = np.array(self._points), tamed(np.array(self._losses))
        if len(points) > MAX_POINTS:
            rows = self._modelled(losses, rng)
            points, losses = points[rows], losses[rows]
        self._schedule()
        posteriors = [
            condition(points, column, self._groups, hyperparameters)
            for column, hyperparameters in zip(losses.T, self._hyperparameters(), strict=True)
        ]
        # The front is that of the posterior means: a lucky measurement alone makes no parent.
        means = np.column_stack([posterior.fitted for posterior in posteriors])
        front = np.flatnonzero(nondominated(means))
        ideal = means[front].min(axis=0)
        span = np.ptp(means[front], axis=0)
        span = np.where(span > 0, span, 1.0)
        ranked = np.argsort(((means - ideal) / span).mean(axis=1), kind="stable")
        rivals = points[list(dict.fromkeys([*front, *ranked[:N_BEST]]))]
        # Points in flight and failures are rivals too: what a draw promises there is taken.
        known = np.vstack([rivals, *self._pending.values(), *self._failed[-N_BEST:]])
        new = self._candidates(points[front], rng)
        heights: list[tuple[Floats, Floats]] = []
        for posterior, best, width in zip(posteriors, ideal, span, strict=True):
            normal = rng.standard_normal((N_DRAWS, len(known) + 1))
            at_known, at_new = posterior.draw(known, new, normal)
            # Scaled so that the front spans [0, 1] and the reference point lies a margin beyond.
            heights.append(
                (
                    1 + REFERENCE_MARGIN - (at_known - best) / width,
                    1 + REFERENCE_MARGIN - (at_new - best) / width,
                )
            )
        directions = np.abs(rng.standard_normal((N_DIRECTIONS, len(heights))))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        gained = improvement([h for h, _ in heights], [h for _, h in heights], directions)
        return np.asarray(new[int(np.argmax(gained))])

    def _modelled(self, losses: Floats, rng: np.random.Generator) -> NDArray[np.intp]:
        """Choose the rows a model is given, ascending.

        The front, the best in the mean of all objectives, and some of the others.
        """
        span = np.ptp(losses, axis=0)
        height = ((losses - losses.min(axis=0)) / np.where(span > 0, span, 1.0)).mean(axis=1)
        height[nondominated(losses)] -= 1.0
        order = np.argsort(height, kind="stable")
        best, rest = np.split(order, [MAX_POINTS - N_OTHERS])
        return np.sort(np.concatenate([best, rng.choice(rest, N_OTHERS, replace=False)]))

    def _schedule(self) -> None:
        """Note how many points hyperparameters are to be searched with from here on."""
        if len(self._points) >= REFIT_GROWTH * self._fit_size:
            self._fit_size = len(self._points)

    def _hyperparameters(self) -> list[Hyperparameters]:
        """Return the scheduled hyperparameters, one per objective.

        They depend on the first points told and the seed alone, so that a resumed sampler, which
        skips the proposals before, comes to the same ones.
        """
        if self._fitted[0] != self._fit_size:
            points = np.array(self._points[: self._fit_size])
            losses = tamed(np.array(self._losses[: self._fit_size]))
            rng = np.random.default_rng([self._seed, self._fit_size])
            some = rng.permutation(self._fit_size)[:MAX_FIT_POINTS]
            new = [fit(points[some], column[some], self._groups) for column in losses.T]
            self._fitted = (self._fit_size, new)
        return self._fitted[1]

    def _candidates(self, parents: Floats, rng: np.random.Generator) -> Floats:
        """Draw points anywhere, and move some from parents or from the line between two of them."""
        d = len(self._space.roles)
        chosen = rng.integers(len(parents), size=(2, N_LOCAL))
        first, second = parents[chosen[0]], parents[chosen[1]]
        along = rng.uniform(0, 1, (N_LOCAL, 1)) * (rng.random((N_LOCAL, 1)) < P_CROSSOVER)
        moved = rng.random((N_LOCAL, d)) < N_MOVED / max(d, N_MOVED)
        steps = rng.choice(LOCAL_STDS, size=(N_LOCAL, 1)) * rng.standard_normal((N_LOCAL, d))
        steps *= self._space.scales / UNIFORM_SCALE
        near = first[:, :d] + along * (second[:, :d] - first[:, :d]) + moved * steps
        # Reflected at the bounds: clipped there, they would crowd where losses may be steep.
        anywhere = prior_fractions(rng.random((N_UNIFORM, d)), self._space.scales)
        shares = np.vstack([anywhere, 1 - np.abs(1 - np.abs(near))])
        branches = rng.choice(len(self._space.prior), len(shares), p=self._space.prior)
        stays = rng.random(N_LOCAL) >= P_SWITCH
        branches[N_UNIFORM:][stays] = self._space.branch_numbers(first[stays])
        drawn = np.hstack([shares, self._space.codes[branches]])
        # Where they will lie once measured, so that inactive roles tell no two points apart.
        return self._space.settled(drawn)


def _length_groups(space: Space) -> tuple[int, ...]:
    """Number the length scales of a position: one per role, one for methods, one per source."""
    d, n_methods = len(space.roles), len(space.methods)
    return (*range(d), *[d] * n_methods, *range(d + 1, d + 1 + len(space.sources)))


def tamed(losses: Floats) -> Floats:
    """Put the worse half of each objective's losses, (n, m), on a logarithmic scale.

    So ruined merges (a perplexity of 10⁶) do not set the scale of all others. Monotone, and the
    identity below the median.
    """
    middle = np.median(losses, axis=0)
    unit = middle - losses.min(axis=0)
    unit = np.where(unit > 0, unit, 1.0)
    worse = np.maximum(losses - middle, 0.0)
    return np.asarray(np.minimum(losses, middle) + unit * np.log1p(worse / unit))


def improvement(known: Sequence[Floats], new: Sequence[Floats], directions: Floats) -> Floats:
    """Return the expected hypervolume gained by each new point, up to a constant: (k,).

    The hypervolume of points y (heights above the reference point) is, up to a constant, the mean
    over directions λ of max_y s_λ(y), s_λ(y) = min_i (max(y_i, 0) / λ_i)^m (Zhang and Golovin 2020,
    lemma 5), for λ uniform on the part of the unit sphere with positive coordinates. So the gain of
    a point is the mean of how far its s_λ exceeds the largest among the known points.

    Args:
        known: an array (draws, b) per objective, the heights of b known points.
        new: an array (draws, k) per objective, the heights of k new points.
        directions: unit vectors with positive coordinates, (directions, m).
    """
    total = np.zeros(new[0].shape[1])
    for direction in directions:
        reached = _lowest(new, direction)
        best = _lowest(known, direction).max(axis=1, keepdims=True)
        # The power m is monotone, so it comes after the minimum and the maximum; a sum over draws
        # and directions orders points as the mean does.
        m = len(direction)
        total += (np.maximum(reached, best) ** m - best**m).sum(axis=0)
    return total


def _lowest(heights: Sequence[Floats], direction: Floats) -> Floats:
    """Return min_i max(y_i, 0) / λ_i, elementwise."""
    scaled = heights[0] / direction[0]
    for height, weight in zip(heights[1:], direction[1:], strict=True):
        np.minimum(scaled, height / weight, out=scaled)
    return np.asarray(np.maximum(scaled, 0.0))
