"""What the losses of a search's trials may truly be, drawn from its estimates and their errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from automerge.arrays import Floats, Indices
from automerge.objective import Objective
from automerge.report.searched import search_losses
from automerge.store.result import TrialResult
from automerge.trial import BASELINES

N_DRAWS, MIN_DRAWS, MAX_LOSSES = 400, 100, 400_000
"""How many draws; fewer, but at least the second number, where draws times trials would exceed the
third."""
MIN_GROUP = 3
"""The fewest trials that show how far trials differ."""
TINY = 1e-200
"""A variance below this counts as zero."""


@dataclass(frozen=True)
class Draws:
    """Losses of the trials that have an estimate of every goal, in the order of trials.

    Attributes:
        trials: the trials, n of them.
        estimated: what the search believed, (n, goals), to be minimised.
        losses: what they may truly be, (draws, n, goals).
    """

    trials: tuple[TrialResult, ...]
    estimated: Floats
    losses: Floats


def draw_losses(goals: Sequence[Objective], trials: Sequence[TrialResult]) -> Draws:
    """Draw the losses of trials.

    The best of many estimates is too good, since its luck is part of why it is the best. So losses
    of merges are drawn from their posterior, with a normal prior whose mean and variance are those
    of the merges themselves, apart for the first and second half of the search (empirical Bayes).
    """
    losses = search_losses(goals, trials)
    rows = np.flatnonzero(np.isfinite(losses).all(axis=1)).tolist()
    known, estimated = [trials[i] for i in rows], losses[rows]
    found = [t.search_estimate(o) for t in known for o in goals]
    errors = np.array([0.0 if e is None else e.stderr for e in found]).reshape(estimated.shape)
    noise = np.where(np.isfinite(errors), errors, 0.0)
    half = len(known) // 2
    groups = np.array(
        [0 if t.trial.origin in BASELINES else 1 + (i >= half) for i, t in enumerate(known)],
        dtype=np.intp,
    )
    n_draws = max(min(N_DRAWS, MAX_LOSSES // max(len(known), 1)), MIN_DRAWS)
    return Draws(tuple(known), estimated, posterior(estimated, noise, groups, n_draws))


def posterior(estimated: Floats, errors: Floats, groups: Indices, n_draws: int) -> Floats:
    """Draw true values, (draws, n, m), given estimates with standard errors, both (n, m).

    Those of a group are taken to be normal about a mean of their own, both mean and variance being
    uncertain; those in group 0, or in one of fewer than `MIN_GROUP`, may be anywhere.
    """
    rng = np.random.default_rng(0)
    found = np.empty((n_draws, *estimated.shape))
    for group in np.unique(groups):
        own = np.flatnonzero(groups == group)
        x, variance = estimated[own], errors[own] ** 2
        if group == 0 or len(own) < MIN_GROUP:
            kept, centre = np.ones((n_draws, *x.shape)), np.zeros((n_draws, 1, x.shape[1]))
        else:
            degrees = len(own) - 1
            chi = rng.chisquare(degrees, (n_draws, 1, x.shape[1]))
            spread = x.var(axis=0, ddof=1) * degrees / chi - variance.mean(axis=0)
            total = np.maximum(spread, 0.0) + variance
            kept = np.where(total > 0, np.maximum(spread, 0.0) / np.maximum(total, TINY), 1.0)
            weights = 1 / np.maximum(total, TINY)
            mean = (weights * x).sum(axis=1, keepdims=True) / weights.sum(axis=1, keepdims=True)
            wander = rng.standard_normal((n_draws, 1, x.shape[1]))
            centre = mean + wander / np.sqrt(weights.sum(axis=1, keepdims=True))
        own_noise = rng.standard_normal((n_draws, *x.shape)) * np.sqrt(kept * variance)
        found[:, own] = centre + kept * (x - centre) + own_noise
    return found
