"""Evidence that may be looked at after every item: betting on bounded differences."""

from __future__ import annotations

import numpy as np

from automerge.arrays import Floats

LARGEST_STAKE = 0.5
"""The share of its wealth that a bettor stakes at most."""


def log_evidence(differences: Floats) -> Floats:
    """The most log wealth a bettor ever had against "the mean is at most 0", over the last axis.

    `differences`, shape (..., n), lie in [-1, 1] and come in random order. The wealth is an
    e-process: under the hypothesis it ever reaches 1/α with probability at most α (Ville 1939), so
    it may be looked at after every item. Stakes are mean / (variance + mean²) of what came before,
    with a pseudo-difference of each sign (approximate growth-rate adaptive betting, Waudby-Smith
    & Ramdas 2024, J. R. Stat. Soc. B 86, 1-27).
    """
    sums = np.cumsum(differences, axis=-1) - differences
    squares = np.cumsum(differences**2, axis=-1) - differences**2 + 2.0
    stakes = np.clip(sums / squares, 0.0, LARGEST_STAKE)
    wealth = np.cumsum(np.log1p(stakes * differences), axis=-1)
    return np.asarray(wealth.max(axis=-1, initial=0.0))
