"""What a proposal is chosen by: the hypervolume it is expected to gain, on losses made tame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from automerge.arrays import Floats


def tamed(losses: Floats, errors: Floats) -> tuple[Floats, Floats]:
    """Put each objective's worst losses on a logarithmic scale, with their errors.

    So ruined merges (a perplexity of 10⁶) do not set the scale of all others. Monotone, and the
    identity up to as far above the median as the best loss lies below it. Errors are multiplied by
    the slope (the delta method).

    Args:
        losses: (n, m).
        errors: standard errors of the losses, (n, m).
    """
    middle = np.median(losses, axis=0)
    unit = middle - losses.min(axis=0)
    unit = np.where(unit > 0, unit, 1.0)
    worse = np.maximum(losses - middle - unit, 0.0) / unit
    return np.minimum(losses, middle + unit) + unit * np.log1p(worse), errors / (1 + worse)


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
