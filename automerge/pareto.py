"""Dominance, hypervolume, knee and subset selection: arrays in, arrays out, all minimised.

`losses` are (n, m): n points, m objectives. Rows that are not finite are invalid: never
nondominated, never chosen, worth no volume.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from automerge.arrays import Bools, Floats, Indices


def _as_points(losses: ArrayLike) -> Floats:
    """Convert to a float64 array of shape (n, m), checking that it is one."""
    points = np.asarray(losses, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] == 0:
        raise ValueError(f"losses must have shape (points, objectives); got {points.shape}")
    return points


def valid(losses: ArrayLike) -> Bools:
    """Mark the rows whose losses are all finite: shape (n,)."""
    return np.asarray(np.isfinite(_as_points(losses)).all(axis=1))


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether one row dominates another: nowhere worse and somewhere better."""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def nondominated(losses: ArrayLike) -> Bools:
    """Mark the rows that no other row dominates: shape (n,).

    A row dominates another if it is nowhere worse and somewhere better, so equal rows are all
    marked: which of two equal models to show is not a question of dominance.
    """
    import moocore

    points = _as_points(losses)
    mask = valid(points)
    mask[mask] = moocore.is_nondominated(points[mask], keep_weakly=True)
    return mask


def updated_front(front: Floats, point: Floats) -> Floats:
    """Add a point to a front and drop what it dominates.

    Args:
        front: (k, m) nondominated rows, all different.
        point: (m,).

    Returns:
        The new front; `front` itself if the point is not finite, dominated or already in it.
    """
    if not np.isfinite(point).all() or (front <= point).all(axis=1).any():
        return front
    return np.vstack([front[~(point <= front).all(axis=1)], point])


def layers(losses: ArrayLike) -> list[Indices]:
    """Sort rows into fronts (nondominated sorting, Deb et al. 2002).

    Each layer is the nondominated set of the rows that are in no earlier layer.

    Returns:
        The row numbers of each layer, ascending; invalid rows are in no layer.
    """
    import moocore

    points = _as_points(losses)
    rows = np.flatnonzero(valid(points))
    if not rows.size:
        return []
    ranks = moocore.pareto_rank(points[rows])
    return [rows[ranks == rank] for rank in range(int(ranks.max()) + 1)]


def ideal_nadir(losses: ArrayLike) -> tuple[Floats, Floats]:
    """Return the best value of each objective, and the worst one on the front: (m,) each.

    Raises:
        ValueError: no row is valid.
    """
    points = _as_points(losses)
    front = points[nondominated(points)]
    if not len(front):
        raise ValueError("no row of the losses is finite")
    return front.min(axis=0), front.max(axis=0)


def reference_point(losses: ArrayLike, margin: float = 0.1) -> Floats:
    """Return the worst valid losses, moved away by `margin` of the range of each objective: (m,).

    With 0.1, extreme points of the front contribute volume too (Ishibuchi et al. 2018). For an
    objective with no range, the step is `margin` of its magnitude, or `margin` itself at 0.

    Raises:
        ValueError: no row is valid.
    """
    points = _as_points(losses)
    points = points[valid(points)]
    if not len(points):
        raise ValueError("no row of the losses is finite")
    worst = points.max(axis=0)
    span = worst - points.min(axis=0)
    size = np.where(worst == 0, 1.0, np.abs(worst))
    return np.asarray(worst + margin * np.where(span > 0, span, size))


def hypervolume(losses: ArrayLike, reference: ArrayLike) -> float:
    """Return the volume the rows dominate below the reference point (Zitzler and Thiele 1998).

    Args:
        losses: (n, m); rows at or beyond the reference point add nothing.
        reference: (m,).

    Raises:
        ValueError: the reference point is not finite, or has another number of objectives.
    """
    import moocore

    points = _as_points(losses)
    bound = _as_reference(reference, points)
    inside = valid(points) & (points < bound).all(axis=1)
    if not inside.any():
        return 0.0
    if points.shape[1] == 1:
        return float(bound[0] - points[inside].min())
    front = points[inside]
    front = front[nondominated(front)]
    return float(moocore.hypervolume(np.ascontiguousarray(front), ref=bound))


def _as_reference(reference: ArrayLike, points: Floats) -> Floats:
    """Check that the reference point is finite and has one number per objective."""
    bound = np.asarray(reference, dtype=np.float64)
    if bound.shape != points.shape[1:] or not np.isfinite(bound).all():
        raise ValueError(
            f"the reference point must be {points.shape[1]} finite numbers; got {bound.tolist()}"
        )
    return bound


def hypervolume_history(losses: ArrayLike, reference: ArrayLike) -> Floats:
    """Return the hypervolume of the first 1, 2, ..., n rows: shape (n,), never falling."""
    points = _as_points(losses)
    bound = _as_reference(reference, points)
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
    """Return the row nearest the ideal point, with the front scaled to [0, 1] in each objective.

    This is the knee of a front in the absence of preferences (compromise programming, Zeleny
    1973): nearest in Chebyshev distance, ties broken by the sum, then by row number.

    Returns:
        The row number; None if no row is valid.
    """
    points = _as_points(losses)
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

    Greedy selection reaches at least 1 - 1/e of the best subset's volume (Guerreiro et al. 2016).
    A front smaller than k is chosen whole, then come the next layers, each judged by its own
    volume.

    Args:
        losses: (n, m).
        k: the maximum number of rows to choose.
        reference: (m,), the corner of the volume.

    Returns:
        Row numbers in the order chosen. Rows that add nothing (duplicates, or at or beyond the
        reference point) come last in their layer, by row number.

    Raises:
        ValueError: the reference point is not finite, or has another number of objectives.
    """
    points = _as_points(losses)
    bound = _as_reference(reference, points)
    chosen: list[int] = []
    for layer in layers(points):
        chosen += _greedy_layer(points, layer, k - len(chosen), bound)
        if len(chosen) >= k:
            break
    return np.asarray(chosen, dtype=np.intp)


def _greedy_layer(points: Floats, layer: Indices, k: int, reference: Floats) -> list[int]:
    """Choose greedily and lazily: gains only shrink, so a stale one is a bound (Minoux 1978)."""
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
