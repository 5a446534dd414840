"""Several objectives as several single ones: directions and the augmented Chebyshev function."""

from __future__ import annotations

import numpy as np

from automerge.arrays import Floats

AUGMENTATION = 0.05
"""ρ, the weight of the plain sum, so that weakly dominated points lose."""
SKEW = 0.6
"""Weight of the objective a skewed direction favours, with three objectives or more."""


def directions(n_objectives: int) -> Floats:
    """Return weights that sum to 1, a row per direction, the balanced one first.

    One objective has one direction; two have a balanced and two skewed ones (0.2 and 0.8); more
    have the balanced one and one in favour of each objective.
    """
    m = n_objectives
    skew = {1: 1.0, 2: 0.8}.get(m, SKEW)
    skewed = np.full((m, m), (1 - skew) / max(m - 1, 1))
    np.fill_diagonal(skewed, skew)
    return np.full((1, 1), 1.0) if m == 1 else np.vstack([np.full(m, 1 / m), skewed])


def chebyshev(losses: Floats, weights: Floats, front: Floats) -> Floats:
    """Scalarise losses with the augmented Chebyshev function (Steuer and Choo 1983).

    Losses are scaled by the ideal and nadir points, the best and the worst of the front.

    Args:
        losses: (n, m), to be minimised.
        weights: (m,), a row of `directions`.
        front: (k, m) nondominated losses.

    Returns:
        Values to be minimised, (n,).
    """
    ideal = front.min(axis=0)
    span = front.max(axis=0) - ideal
    scaled = weights * (losses - ideal) / np.where(span > 0, span, 1.0)
    # max_j w_j s_j + ρ Σ_j w_j s_j
    return np.asarray(scaled.max(axis=1) + AUGMENTATION * scaled.sum(axis=1))
