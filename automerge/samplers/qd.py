"""CycleQD: every objective in turn is quality, the others are behaviour."""

from __future__ import annotations

import numpy as np

from automerge.arrays import Floats
from automerge.samplers import moves
from automerge.samplers.base import Sampler, Told
from automerge.samplers.memory import Memory
from automerge.samplers.random import draw
from automerge.space import Space
from automerge.trial import Params

N_BINS = 6
"""Bins of each behaviour, between the best and the worst that has been seen but for outliers."""
OUTLIERS = 0.1
"""Share of the losses beyond the last bin's edge, which count as in the last bin."""
N_INITIAL, INITIAL_FRACTION = 6, 0.15
"""Trials before the first crossover: N_INITIAL, or this share of the budget if that is more; the
first trials count."""
MIX_STD = 0.3
"""Standard deviation of the weights of two parents about 1; their sum is divided out."""
P_MUTATION = 0.8
"""Probability that a child is mutated after the crossover."""


class QdSampler(Sampler):
    """CycleQD (Kuroki et al. 2024, arXiv:2410.14735): MAP-Elites with a quality that changes.

    For each objective there is an archive: a grid over the values of the other objectives, whose
    cells keep the best trial in this one. Archives take turns. Two parents are drawn from one, more
    often those of high quality and extreme behaviour, and mixed with normal weights that sum to 1,
    as the paper mixes task vectors; a mutation steps in the coordinates of the space, where the
    paper amplifies singular directions of task vectors, which no recipe holds. With one objective,
    the grid has one cell, and its elite is mutated.

    It never waits, and its edges move with what has been seen: archives are computed from all
    trials at every proposal.
    """

    def __init__(self, space: Space, n_objectives: int, seed: int, budget: int) -> None:
        self._space = space
        self._seed = seed
        self._memory = Memory(space, n_objectives)
        self._initial = max(N_INITIAL, round(INITIAL_FRACTION * budget))

    def ask(self, number: int) -> Params:
        """Propose parameters for trial `number`."""
        rng = np.random.default_rng([self._seed, number])
        known = len(self._memory)
        if known == 0 or known + len(self._memory.pending) < self._initial:
            methods = self._space.turns
            method = methods[self._memory.asked % len(methods)]
            params = draw(self._space, rng, {self._space.method.name: method})
        else:
            params = self._space.at(self._child(rng))
        self._memory.note(number, params)
        return params

    def repeat(self, number: int, params: Params) -> bool:
        """Note an earlier proposal: later ones depend on what was told, not on how it came."""
        self._memory.note(number, params)
        return True

    def tell(self, number: int, params: Params | None, told: Told | None) -> None:
        """Report a trial."""
        self._memory.enter(number, params, told)

    def _child(self, rng: np.random.Generator) -> Floats:
        losses, d = self._memory.losses, len(self._space.roles)
        quality = self._memory.asked % losses.shape[1]
        elites, weights = elite(losses, quality)
        alone = len(elites) == 1
        first, second = self._memory.points[rng.choice(elites, 2, replace=alone, p=weights)]
        mix = np.maximum(rng.normal(1, MIX_STD, 2), 0.05)
        mix /= mix.sum()
        mixed = np.append(mix[0] * first[:d] + mix[1] * second[:d], first[d:])
        if alone or rng.random() < P_MUTATION:
            return np.asarray(moves.near(self._space, mixed[None], 1, rng)[0])
        return mixed


def elite(losses: Floats, quality: int) -> tuple[list[int], Floats]:
    """Return the rows an archive keeps, and the probability that each is a parent.

    Args:
        losses: (n, m).
        quality: the objective whose best trial each cell keeps; the other objectives are the axes.

    Returns:
        The elites, and probabilities in proportion to quality and to the product of behaviours, all
        from 0 (worst) to 1.
    """
    low = losses.min(axis=0)
    span = np.quantile(losses, 1 - OUTLIERS, axis=0) - low
    goodness = 1 - np.clip((losses - low) / np.where(span > 0, span, 1.0), 0.0, 1.0)
    cells = np.minimum((np.delete(goodness, quality, axis=1) * N_BINS).astype(int), N_BINS - 1)
    kept: dict[tuple[int, ...], int] = {}
    for row, cell in enumerate(map(tuple, cells.tolist())):
        if cell not in kept or losses[row, quality] < losses[kept[cell], quality]:
            kept[cell] = row
    rows = list(kept.values())
    # Not below a hundredth, so that no elite is never a parent.
    weights = np.maximum(goodness[rows], 0.01).prod(axis=1)
    return rows, weights / weights.sum()
