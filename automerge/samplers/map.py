"""MAP: quadratic surrogates, one per objective, and the front they predict."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from threadpoolctl import ThreadpoolController

from automerge.arrays import Floats
from automerge.pareto import nondominated
from automerge.samplers import moves
from automerge.samplers.acquisition import improvement, tamed
from automerge.samplers.base import Sampler, Told
from automerge.samplers.memory import Memory
from automerge.samplers.quadratic import Quadratic, fit
from automerge.samplers.random import draw
from automerge.space import UNIFORM_SCALE, Space
from automerge.trial import Params

INITIAL_FRACTION, MIN_INITIAL = 0.4, 8
"""Share of the budget that is drawn from the prior for the surrogates; no more points than twice
their coefficients."""
MAX_POINTS = 500
"""Points the surrogates are fitted to, at most: the last."""
N_ANYWHERE, N_NEAR, N_ROUNDS, N_CLOSER = 300, 300, 3, 200
"""Candidates for the predicted front: from the prior, near the best measured, and how often, by how
many others, the predicted front is refined."""
N_DIRECTIONS = 64
"""Directions that the hypervolume gained is a mean over."""


class MapSampler(Sampler):
    """MAP (Li et al. 2024, arXiv:2406.07529): merging with amortized Pareto fronts.

    A few merges are measured at random; each objective becomes a quadratic function of the space's
    coordinates; the front of these functions is found without measuring, and measured. Where the
    paper runs NSGA-III on the surrogates once, here every proposal refines their front and takes
    the member that adds most hypervolume to what they predict of all that is measured or in flight,
    and the surrogates are fitted again.

    It suits one method and few dimensions. There need not be as many points as coefficients (see
    `quadratic`), but with many dimensions, methods or sets of models, predictions are worth little:
    `remarks` says how much.
    """

    def __init__(self, space: Space, n_objectives: int, seed: int, budget: int) -> None:
        self._space = space
        self._seed = seed
        self._memory = Memory(space, n_objectives)
        d = len(space.roles)
        coefficients = (d + 1) * (d + 2) // 2
        self._initial = max(min(round(INITIAL_FRACTION * budget), 2 * coefficients), MIN_INITIAL)
        self._threads = ThreadpoolController()

    def ask(self, number: int) -> Params:
        """Propose parameters for trial `number`."""
        rng = np.random.default_rng([self._seed, number])
        if self._memory.asked < self._initial or len(self._memory) < MIN_INITIAL:
            methods = self._space.turns
            method = methods[self._memory.asked % len(methods)]
            params = draw(self._space, rng, {self._space.method.name: method})
        else:
            with self._threads.limit(limits=1, user_api="blas"):
                params = self._space.at(self._predicted(rng))
        self._memory.note(number, params)
        return params

    def repeat(self, number: int, params: Params) -> bool:
        """Note an earlier proposal: later ones depend on what was told, not on how it came."""
        self._memory.note(number, params)
        return True

    def tell(self, number: int, params: Params | None, told: Told | None) -> None:
        """Report a trial."""
        self._memory.enter(number, params, told)

    def remarks(self) -> Sequence[str]:
        """Say how well the surrogates predict trials that they were not fitted to."""
        if len(self._memory) < MIN_INITIAL:
            return ()
        with self._threads.limit(limits=1, user_api="blas"):
            shares = ", ".join(f"{surrogate.quality:.2f}" for surrogate in self._surrogates())
        return (
            f"map's quadratic surrogates predict left-out trials with R² = {shares} "
            "(one per objective; 1 is perfect, 0 is no better than the mean)",
        )

    def _surrogates(self) -> list[Quadratic]:
        losses, errors = tamed(self._memory.losses[-MAX_POINTS:], self._memory.errors[-MAX_POINTS:])
        inputs = self._inputs(self._memory.points[-MAX_POINTS:])
        return [
            fit(inputs, column, error if np.isfinite(error).all() else None)
            for column, error in zip(losses.T, errors.T, strict=True)
        ]

    def _inputs(self, positions: Floats) -> Floats:
        """Measure positions from the middle, in units of a uniform prior's standard deviation."""
        return np.asarray((positions - 0.5) / UNIFORM_SCALE / np.sqrt(positions.shape[1]))

    def _predicted(self, rng: np.random.Generator) -> Floats:
        surrogates = self._surrogates()

        def predict(points: Floats) -> Floats:
            return np.column_stack([surrogate(self._inputs(points)) for surrogate in surrogates])

        measured = self._memory.points[-MAX_POINTS:]
        best = measured[nondominated(predict(measured))]
        new = np.vstack(
            [
                moves.anywhere(self._space, N_ANYWHERE, rng),
                moves.near(self._space, best, N_NEAR, rng),
            ]
        )
        for _ in range(N_ROUNDS):
            front = new[nondominated(predict(new))]
            new = np.vstack([front, moves.closer(self._space, front, N_CLOSER, rng)])
        values = predict(new)
        known = predict(np.vstack([measured, *self._memory.pending]))
        span = np.ptp(known, axis=0)
        # Heights above the worst of what is known, in its range.
        worst, unit = known.max(axis=0), np.where(span > 0, span, 1.0)
        directions = np.abs(rng.standard_normal((N_DIRECTIONS, len(span))))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        gained = improvement(
            [column[None] for column in ((worst - known) / unit).T],
            [column[None] for column in ((worst - values) / unit).T],
            directions,
        )
        return np.asarray(new[int(np.argmax(gained))])
