"""Where a merge's gain over equal weights came from, to first order, by source, part and layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from automerge.arrays import Floats
from automerge.recipe import Coordinate, Profile, Recipe, interpolate
from automerge.report.weights import KnobRow, depths, selector_name
from automerge.store.result import StudyResult
from automerge.trial import Measured, Slope

WEIGHT = "weight"


@dataclass(frozen=True)
class _Point:
    """The weights of a trial and the slopes of its losses, relative to these: (weights,)."""

    at: Floats
    slopes: Floats


def gain_rows(result: StudyResult, recipe: Recipe) -> tuple[KnobRow, ...]:
    """Return how much each source's weight in each layer lowered the mean loss, by source and part.

    The gain from weights r, which are 1 / number of sources, to w is taken to be (r − w) · s, with
    s the mean of the slopes at the two measured recipes nearest to r and w (the trapezoidal rule
    along the line between them). A knot's part is shared out over the layers by its hat function,
    so that all values sum to the whole gain. Losses are relative to those of the recipe nearest to
    r, and their mean is over the objectives that have slopes.

    Args:
        result: the study.
        recipe: a merge of its space.

    Returns:
        Rows of values per layer; none where no recipe with the same numbers has slopes.
    """
    wanted = weight_coordinates(recipe)
    points = _points(result, recipe, wanted)
    if not points or not wanted:
        return ()
    at = _weights(recipe, wanted)
    equal = np.full(len(wanted), 1 / len(recipe.sources))
    first, last = (_nearest(points, place) for place in (equal, at))
    return _rows(wanted, (equal - at) * (first.slopes + last.slopes) / 2, result.n_layers)


def weight_coordinates(recipe: Recipe) -> tuple[Coordinate, ...]:
    """Return the numbers of the recipe that are sources' weights."""
    return tuple(c for c in recipe.coordinates if c.knob == WEIGHT and c.source is not None)


def _points(result: StudyResult, recipe: Recipe, wanted: Sequence[Coordinate]) -> list[_Point]:
    """Return the trials of the recipe's method and numbers that have slopes in all of them."""
    found = []
    for trial in result.trials:
        own, outcome = trial.trial.recipe, trial.outcomes.get("search")
        alike = own.method == recipe.method and weight_coordinates(own) == wanted
        if alike and isinstance(outcome, Measured):
            rows = [_relative(slope, wanted) for slope in outcome.slopes.values()]
            known = [row for row in rows if row is not None]
            if known:
                found.append(_Point(_weights(own, wanted), np.mean(known, axis=0)))
    return found


def _relative(slope: Slope, wanted: Sequence[Coordinate]) -> Floats | None:
    if slope.loss <= 0 or not all(c in slope.by for c in wanted):
        return None
    found = np.array([slope.by[c] for c in wanted]) / slope.loss
    return found if np.isfinite(found).all() else None


def _weights(recipe: Recipe, wanted: Sequence[Coordinate]) -> Floats:
    profiles: Mapping[str, Profile] = {s.name: s.knobs[WEIGHT] for s in recipe.sources}
    return np.array([dict(profiles[c.source or ""].parts)[c.selector][c.knot] for c in wanted])


def _nearest(points: Sequence[_Point], at: Floats) -> _Point:
    return min(points, key=lambda point: float(((point.at - at) ** 2).sum()))


def _rows(wanted: Sequence[Coordinate], gains: Floats, n_layers: int) -> tuple[KnobRow, ...]:
    grouped: dict[tuple[str, str], list[float]] = {}
    for coordinate, gain in zip(wanted, gains.tolist(), strict=True):
        grouped.setdefault((coordinate.source or "", coordinate.selector), []).append(gain)
    selectors = {selector for _, selector in grouped}
    return tuple(
        KnobRow(
            "gain", source, selector_name(selector, len(selectors) == 1), _spread(knots, n_layers)
        )
        for (source, selector), knots in grouped.items()
    )


def _spread(knots: Sequence[float], n_layers: int) -> tuple[float, ...]:
    """Share out the values of knots over layers, by their hat functions; the sum stays."""
    unit = np.eye(len(knots))
    hats = np.array([[interpolate(tuple(u), d) for d in depths(n_layers)] for u in unit.tolist()])
    totals = hats.sum(axis=1, keepdims=True)
    shares = np.where(totals > 0, hats / np.where(totals > 0, totals, 1.0), 1 / hats.shape[1])
    return tuple((np.array(knots) @ shares).tolist())
