"""Evidence that stays valid when looked at after every item: betting on bounded differences."""

from __future__ import annotations

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
