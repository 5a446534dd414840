"""Evidence that stays valid when looked at after every item: betting on bounded differences."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from automerge.arrays import Floats

MAX_STAKE = 0.5
"""The largest fraction of its wealth that a bettor stakes."""


def log_evidence(differences: Floats) -> Floats:
    """Return the largest log wealth a bettor ever had against "the mean is at most 0".

    The wealth is an e-process: under the hypothesis it ever reaches 1/α with probability at most α
    (Ville 1939), so it may be looked at after every item. Stakes follow approximate growth-rate
    adaptive betting, aGRAPA (Waudby-Smith and Ramdas 2024, J. R. Stat. Soc. B 86, 1-27), with a
    pseudo-difference of +1 and of -1 before the first.

    Args:
        differences: (..., n), in [-1, 1] and in random order.

    Returns:
        The evidence in nats, over the last axis: (...).
    """
    # λ_t = mean / (variance + mean²) = Σ d / Σ d², both over what came before item t
    sums = np.cumsum(differences, axis=-1) - differences
    squares = np.cumsum(differences**2, axis=-1) - differences**2 + 2.0
    stakes = np.clip(sums / squares, 0.0, MAX_STAKE)
    wealth = np.cumsum(np.log1p(stakes * differences), axis=-1)  # log Π_t (1 + λ_t d_t)
    return np.asarray(wealth.max(axis=-1, initial=0.0))


def evidence_of_mean(differences: Sequence[Floats]) -> Floats:
    """Return the evidence against "the mean of the tasks' mean differences is at most 0".

    The k-th items of all tasks are one bet: the mean of their differences is in [-1, 1] again, and
    its expectation is that of the tasks' means. So as many items count as the smallest task has.

    Args:
        differences: of each task, (..., n of the task), in [-1, 1] and in random order.

    Returns:
        The evidence in nats: (...).
    """
    n = min(own.shape[-1] for own in differences)
    return log_evidence(np.mean([own[..., :n] for own in differences], axis=0))


def evidence_of_largest(worse: Sequence[Floats], better: Sequence[Floats]) -> Floats:
    """Return the evidence against "the largest of the `worse` means is no larger than that of the
    `better` ones".

    The hypothesis says that some task i of the better model is at least as bad as every task j of
    the worse one. For each i it is given up as soon as any j contradicts it, with a T-th of its
    probability each, T being the number of tasks, and for all i the evidence is the least: the
    union of hypotheses is rejected once each is (Berger 1982, Technometrics 24, 295-300). Where
    i = j, differences are those of the same items; else those of the k-th items of both tasks.

    Args:
        worse: losses of a model on each task, (..., n of the task), all within a range of 1 and in
            random order.
        better: those of another on the same items.

    Returns:
        The evidence in nats: (...).
    """
    found = []
    for one in better:
        against = []
        for other in worse:
            n = min(one.shape[-1], other.shape[-1])
            against.append(log_evidence(other[..., :n] - one[..., :n]))
        found.append(np.max(against, axis=0))
    return np.asarray(np.maximum(np.min(found, axis=0) - math.log(len(better)), 0.0))


def evidence_of_all(differences: Sequence[Floats]) -> Floats:
    """Return the evidence against "some task's mean difference is at most 0".

    A model that is better at every task has the better mean and the better worst task, whatever
    each task's values are divided by.

    Args:
        differences: of each task, (..., n of the task), in [-1, 1] and in random order.

    Returns:
        The evidence in nats: (...).
    """
    return np.asarray(np.min([log_evidence(own) for own in differences], axis=0))
