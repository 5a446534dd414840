"""Dominance, hypervolume, knee and subset selection: arrays in, arrays out, all minimised.

`losses` are (n, m): n points, m objectives. Rows that are not finite are invalid: never
nondominated, never chosen, worth no volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]
Indices: TypeAlias = NDArray[np.intp]


def as_points(losses: ArrayLike) -> Floats:
    """Check and convert to a float64 array of shape (n, m)."""
    points = np.asarray(losses, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] == 0:
        raise ValueError(f"losses must have shape (points, objectives); got {points.shape}")
    return points


def valid(losses: ArrayLike) -> Bools:
    """Mark the rows whose losses are all finite."""
    return np.asarray(np.isfinite(as_points(losses)).all(axis=1))


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether one row dominates another: nowhere worse, somewhere better."""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def nondominated(losses: ArrayLike) -> Bools:
    """Mark the rows no other row dominates.

    A row dominates another when it is nowhere worse and somewhere better, so equal rows are all
    kept: which of two equal models to show is not a question of dominance.
    """
    points = as_points(losses)
    mask = valid(points)
    # In lexicographic order only earlier rows can dominate later ones: the first row left is on the
    # front, and takes what it dominates with it, so that there are as many steps as front rows.
    left = np.flatnonzero(mask)[np.lexsort(points[mask].T[::-1])]
    while left.size:
        first = points[left[0]]
        no_better = (first <= points[left]).all(axis=1)
        mask[left[no_better]] = (points[left[no_better]] == first).all(axis=1)
        left = left[~no_better]
    return mask


def updated_front(front: Floats, point: Floats) -> Floats:
    """The front once a point has come: (k, m) nondominated rows, of equal ones the first alone.

    `front` itself where the point is not finite or no improvement.
    """
    if not np.isfinite(point).all() or (front <= point).all(axis=1).any():
        return front
    return np.vstack([front[~(point <= front).all(axis=1)], point])


def layers(losses: ArrayLike) -> list[Indices]:
    """Peel fronts off one after the other (nondominated sorting, Deb et al. 2002).

    Each layer holds ascending row numbers; invalid rows are in none.
    """
    points = as_points(losses)
    left = np.flatnonzero(valid(points))
    peeled = []
    while left.size:
        mask = nondominated(points[left])
        peeled.append(left[mask])
        left = left[~mask]
    return peeled


def ideal_nadir(losses: ArrayLike) -> tuple[Floats, Floats]:
    """The best value of each objective, and the worst one on the front.

    Raises ValueError when no row is valid.
    """
    points = as_points(losses)
    front = points[nondominated(points)]
    if not len(front):
        raise ValueError("no row of the losses is finite")
    return front.min(axis=0), front.max(axis=0)


def reference_point(losses: ArrayLike, margin: float = 0.1) -> Floats:
    """The worst valid losses, moved away by `margin` of the range of each objective.

    With 0.1, extreme points of the front keep a volume of their own (Ishibuchi et al. 2018).
    An objective without range is moved by `margin` of its size, or by `margin` at 0.
    """
    points = as_points(losses)
    points = points[valid(points)]
    if not len(points):
        raise ValueError("no row of the losses is finite")
    worst = points.max(axis=0)
    span = worst - points.min(axis=0)
    size = np.where(worst == 0, 1.0, np.abs(worst))
    return np.asarray(worst + margin * np.where(span > 0, span, size))


def hypervolume(losses: ArrayLike, reference: ArrayLike) -> float:
    """The volume the rows dominate below the reference point (Zitzler and Thiele 1998)."""
    import moocore

    points = as_points(losses)
    bound = as_reference(reference, points)
    inside = valid(points) & (points < bound).all(axis=1)
    if not inside.any():
        return 0.0
    if points.shape[1] == 1:
        return float(bound[0] - points[inside].min())
    front = points[inside]
    front = front[nondominated(front)]
    return float(moocore.hypervolume(np.ascontiguousarray(front), ref=bound))


def as_reference(reference: ArrayLike, points: Floats) -> Floats:
    """Check that the reference point is finite and has one number an objective."""
    bound = np.asarray(reference, dtype=np.float64)
    if bound.shape != points.shape[1:] or not np.isfinite(bound).all():
        raise ValueError(
            f"the reference point must be {points.shape[1]} finite numbers; got {bound.tolist()}"
        )
    return bound


def hypervolume_history(losses: ArrayLike, reference: ArrayLike) -> Floats:
    """The hypervolume of the first 1, 2, ..., n rows: shape (n,), never falling."""
    points = as_points(losses)
    bound = as_reference(reference, points)
    history = np.zeros(len(points))
    front = points[:0]
    volume = 0.0
    for i, point in enumerate(points):
        if (larger := updated_front(front, point)) is not front:
            front = larger
            volume = max(volume, hypervolume(front, bound))
        history[i] = volume
    return history


def knee(losses: ArrayLike) -> int | None:
    """The row nearest the ideal point, the front scaled to [0, 1] in each objective.

    The knee of a front without further preference (compromise programming, Zeleny 1973, with
    Chebyshev distance, then the sum); the first of equals. None when no row is valid.
    """
    points = as_points(losses)
    front = np.flatnonzero(nondominated(points))
    if not front.size:
        return None
    ideal, nadir = ideal_nadir(points)
    span = nadir - ideal
    scaled = (points[front] - ideal) / np.where(span > 0, span, 1.0)
    order = np.lexsort((scaled.sum(axis=1), scaled.max(axis=1)))
    return int(front[order[0]])


def greedy_subset(losses: ArrayLike, k: int, reference: ArrayLike) -> Indices:
    """Choose up to k rows, each adding the most hypervolume to those before it.

    Greedy selection is within 1 - 1/e of the best subset (Guerreiro et al. 2016). A front smaller
    than k is chosen whole, then the next layers follow, each judged by its own volume. Rows that
    add nothing (at or beyond the reference point, or copies) come last in their layer, by
    row number. Returns row numbers in the order chosen.
    """
    points = as_points(losses)
    bound = as_reference(reference, points)
    chosen: list[int] = []
    for layer in layers(points):
        chosen += _greedy_layer(points, layer, k - len(chosen), bound)
        if len(chosen) >= k:
            break
    return np.asarray(chosen, dtype=np.intp)


def _greedy_layer(points: Floats, layer: Indices, k: int, reference: Floats) -> list[int]:
    """Lazy greedy: gains only shrink, so a stale gain is an upper bound (Minoux 1978)."""
    chosen: list[int] = []
    volume = 0.0
    gains = {int(i): hypervolume(points[[i]], reference) for i in layer}
    while gains and len(chosen) < k:
        best = min(gains, key=lambda i: (-gains[i], i))
        gain = hypervolume(points[[*chosen, best]], reference) - volume
        others = max((g for i, g in gains.items() if i != best), default=-np.inf)
        gains[best] = gain
        if gain >= others:
            chosen.append(best)
            volume = hypervolume(points[chosen], reference)
            del gains[best]
    return chosen
