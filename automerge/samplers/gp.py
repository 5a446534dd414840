"""Bayesian optimisation over conditional spaces and any number of objectives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from automerge.arrays import Floats
from automerge.pareto import nondominated
from automerge.recipe import uniform_average
from automerge.samplers import moves
from automerge.samplers.acquisition import improvement, tamed
from automerge.samplers.base import Sampler, Told
from automerge.samplers.gaussian_process import (
    Columns,
    Hyperparameters,
    Posterior,
    condition,
    fit,
)
from automerge.samplers.random import draw
from automerge.space import UNIFORM_SCALE, Space
from automerge.trial import Params

N_PROBES, PROBED = 10, 0.25
"""Probes before the first model, half the dimensions where that is more, but no more than this
share of the budget."""
ANYWHERE_EVERY = 4
"""One probe in this many is drawn from the prior; the others are about the best start."""
MIN_POINTS = 3
"""Points a model needs."""
REFIT_GROWTH = 1.1
"""Hyperparameters are searched again once the points have grown by this factor."""
MAX_FIT_POINTS = 300
"""Points hyperparameters are searched with, at most."""
MAX_POINTS, N_OTHERS = 1500, 300
"""Points a model is given at most, since it costs their cube: the best, and N_OTHERS others."""
N_ANYWHERE, N_NEAR = 200, 500
"""Candidates a proposal is chosen from: drawn from the prior, and near the front."""
N_ROUNDS, N_ELITE, N_CLOSER = 2, 10, 200
"""How often the best candidates are refined, how many of them, and by how many others."""
N_DRAWS, N_DIRECTIONS = 16, 64
"""Posterior draws, and directions of scalarisation, that improvement is a mean over."""
N_BEST = 40
"""How many of the best points, beyond the front, improvements are measured against."""
REFERENCE_MARGIN = 0.1
"""Between the front's worst losses and the reference point, as a fraction of the front's range."""


class GpSampler(Sampler):
    """Gaussian processes, one per objective, and noisy expected hypervolume improvement.

    Improvement is estimated with posterior draws and random hypervolume scalarisation (Zhang and
    Golovin 2020, arXiv:2006.04655), against what the same draw says of the best points measured
    and of those still being measured (cf. Daulton et al. 2021, arXiv:2105.08195). So noise earns
    no point a place that its neighbours do not grant, and it never waits. A trial counts for as
    much as its own errors allow.

    It begins where merges are good: first about the best of the trials that it did not ask for
    (base, sources, uniform average, the user's recipes), later near the front of what it believes,
    so that it need not find again what is known.

    Methods share coordinates (see `Space`); which method and which models is coded beside them.
    It computes with one thread: beside workers that keep the processors busy, several of BLAS's
    wait for each other, and a proposal takes twenty times as long.
    """

    def __init__(self, space: Space, n_objectives: int, seed: int, budget: int) -> None:
        self._space = space
        self._seed = seed
        probes = min(max(N_PROBES, len(space.roles) // 2), round(PROBED * budget))
        self._probes = max(probes, len(space.turns))
        self._columns = _columns(space)
        average = space.params(uniform_average(space.trained))
        self._average = None if average is None else space.position(average)
        """Where to begin before any start is measured."""
        self._starts: list[int] = []
        """Which of the points nobody asked for."""
        self._points: list[Floats] = []
        self._losses: list[Floats] = []
        self._errors: list[Floats] = []
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
            params = self._probe(rng)
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
        asked = point is not None
        if point is None and params is not None:
            point = self._space.position(params)
        if point is None:
            return
        if told is None or not told.is_finite:
            self._failed.append(point)
        else:
            if not asked:
                self._starts.append(len(self._points))
            self._points.append(point)
            self._losses.append(np.array(told.losses, dtype=np.float64))
            errors = told.errors or (np.nan,) * len(told.losses)
            self._errors.append(np.array(errors, dtype=np.float64))

    def _probe(self, rng: np.random.Generator) -> Params:
        """Return parameters about the best start, or anywhere; the methods take turns."""
        turn, of_method = divmod(self._asked, len(self._space.turns))
        method = self._space.turns[of_method]
        start = self._start()
        if start is None or turn % ANYWHERE_EVERY == ANYWHERE_EVERY - 1:
            return draw(self._space, rng, {self._space.method.name: method})
        return self._space.at(moves.probe(self._space, start, method, turn, self._seed))

    def _start(self) -> Floats | None:
        """Return the start that is best in the mean of all objectives."""
        if not self._starts:
            return self._average
        losses = np.array([self._losses[row] for row in self._starts])
        return self._points[self._starts[int(np.argmin(_heights(losses)))]]

    def _best(self, rng: np.random.Generator) -> Floats:
        """Return the candidate of the largest expected improvement, as a position."""
        points, (losses, errors) = np.array(self._points), self._tamed(len(self._points))
        if len(points) > MAX_POINTS:
            rows = self._modelled(losses, rng)
            points, losses, errors = points[rows], losses[rows], errors[rows]
        self._schedule()
        posteriors = [
            condition(points, column, self._columns, hyperparameters, _known(error))
            for column, error, hyperparameters in zip(
                losses.T, errors.T, self._hyperparameters(), strict=True
            )
        ]
        # The front is that of the posterior means: a lucky measurement alone makes no parent.
        means = np.column_stack([posterior.fitted for posterior in posteriors])
        front = np.flatnonzero(nondominated(means))
        ideal, span = means[front].min(axis=0), _span(means[front])
        ranked = np.argsort(((means - ideal) / span).mean(axis=1), kind="stable")
        rivals = points[list(dict.fromkeys([*front, *ranked[:N_BEST]]))]
        # Points in flight and failures are rivals too: what a draw promises there is taken.
        known = np.vstack([rivals, *self._pending.values(), *self._failed[-N_BEST:]])
        gained = _Gain(posteriors, known, ideal, span, rng)
        new = np.vstack(
            [
                moves.anywhere(self._space, N_ANYWHERE, rng),
                moves.near(self._space, points[front], N_NEAR, rng),
            ]
        )
        gains = gained(new)
        for _ in range(N_ROUNDS):
            best = np.argsort(-gains, kind="stable")[:N_ELITE]
            refined = moves.closer(self._space, new[best], N_CLOSER, rng)
            new = np.vstack([new[best], refined])
            gains = np.append(gains[best], gained(refined))
        return np.asarray(new[int(np.argmax(gains))])

    def _tamed(self, n: int) -> tuple[Floats, Floats]:
        """Return the tamed losses and errors of the first n points told."""
        return tamed(np.array(self._losses[:n]), np.array(self._errors[:n]))

    def _modelled(self, losses: Floats, rng: np.random.Generator) -> NDArray[np.intp]:
        """Choose the rows a model is given, ascending.

        The front, the best in the mean of all objectives, and some of the others.
        """
        height = _heights(losses)
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
            losses, errors = self._tamed(self._fit_size)
            rng = np.random.default_rng([self._seed, self._fit_size])
            some = rng.permutation(self._fit_size)[:MAX_FIT_POINTS]
            new = [
                fit(points[some], column[some], self._columns, _known(error[some]))
                for column, error in zip(losses.T, errors.T, strict=True)
            ]
            self._fitted = (self._fit_size, new)
        return self._fitted[1]


class _Gain:
    """The expected improvement of candidates, by the same posterior draws for all."""

    def __init__(
        self,
        posteriors: Sequence[Posterior],
        known: Floats,
        ideal: Floats,
        span: Floats,
        rng: np.random.Generator,
    ) -> None:
        self._posteriors = posteriors
        self._known = known
        self._scales = tuple(zip(ideal, span, strict=True))
        directions = np.abs(rng.standard_normal((N_DIRECTIONS, len(posteriors))))
        self._directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
        self._normal = rng.standard_normal((len(posteriors), N_DRAWS, len(known) + 1))

    def __call__(self, new: Floats) -> Floats:
        """Return the improvement of each of the new points, up to a constant: (k,)."""
        at_known, at_new = [], []
        for posterior, (best, width), normal in zip(
            self._posteriors, self._scales, self._normal, strict=True
        ):
            drawn = posterior.draw(self._known, new, normal)
            # Scaled so that the front spans [0, 1] and the reference point lies a margin beyond.
            known, others = (1 + REFERENCE_MARGIN - (values - best) / width for values in drawn)
            at_known.append(known)
            at_new.append(others)
        return improvement(at_known, at_new, self._directions)


def _columns(space: Space) -> Columns:
    """Describe positions: a length scale per role, one for methods, one per source."""
    d, n_methods, n_sources = len(space.roles), len(space.choices), len(space.sources)
    groups = (*range(d), *[d] * n_methods, *range(d + 1, d + 1 + n_sources))
    varied = np.ptp(space.codes, axis=0) > 0
    choices = int(varied[:n_methods].any()) + int(varied[n_methods:].sum())
    return Columns(groups, d, float(((space.scales / UNIFORM_SCALE) ** 2).sum()) + choices)


def _known(errors: Floats) -> Floats | None:
    """Return errors, the largest in place of those not known; None where none is known."""
    finite = np.isfinite(errors)
    return np.where(finite, errors, errors[finite].max()) if finite.any() else None


def _span(losses: Floats) -> Floats:
    """Return the range of each objective, 1 where all are equal: (m,)."""
    span = np.ptp(losses, axis=0)
    return np.where(span > 0, span, 1.0)


def _heights(losses: Floats) -> Floats:
    """Return the mean of each row's losses, in ranges above the best of each: (n,)."""
    return np.asarray(((losses - losses.min(axis=0)) / _span(losses)).mean(axis=1))
