"""Where a merge's gain over equal weights came from: by source, component and layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from automerge.arrays import Floats
from automerge.recipe import Coordinate, Recipe, interpolate
from automerge.report.weights import KnobRow, depths, selector_name
from automerge.store.result import TrialResult
from automerge.trial import Measured

WEIGHT = "weight"
LINE: tuple[float, ...] = (0.0, 1.0, 0.5)
"""Where slopes are measured on the line from equal weights, 0, to a merge's own, 1; in this order.
"""
SIMPSON = (1 / 6, 1 / 6, 4 / 6)
"""What Simpson's rule multiplies the slopes at these points by: exact where losses are polynomials
of degree 4 along the line."""
UNEXPLAINED = 0.25
"""A map is shown if its sum differs from the measured gain by no more than this share of it."""


@dataclass(frozen=True)
class Gains:
    """How much a merge's weights, instead of equal ones, lowered the loss.

    Losses are the smooth ones behind the goals, relative to those at equal weights, averaged over
    the objectives that have one, and all measured on the same items.

    Attributes:
        measured: the loss with equal weights less that with the merge's.
        rows: what each source's weight contributed in each layer, from slopes.
    """

    measured: float
    rows: tuple[KnobRow, ...]

    @property
    def explained(self) -> float:
        """The sum of all contributions: the whole gain, where slopes explain it."""
        return math.fsum(value or 0.0 for row in self.rows for value in row.values)

    @property
    def holds(self) -> bool:
        """Whether the contributions sum to about what was measured."""
        return abs(self.explained - self.measured) <= UNEXPLAINED * abs(self.measured)


def gains(trial: TrialResult, n_layers: int) -> Gains | None:
    """Return where a trial's gain over equal weights came from.

    With r the equal weights and w the merge's, a weight's contribution is (r − w) times the mean of
    its slope over the line from r to w (integrated gradients, Sundararajan et al. 2017,
    arXiv:1703.01365), by Simpson's rule. Contributions sum to the gain up to the rule's error. A
    knot's is shared out over the layers by its hat function.

    Returns:
        None where slopes along the line were not all measured.
    """
    recipe = trial.trial.recipe
    wanted = weight_coordinates(recipe)
    found = [_losses(own, wanted) for own in trial.explained]
    if len(found) < len(LINE) or not wanted:
        return None
    names = [n for n in found[0] if found[0][n][0] > 0 and all(n in own for own in found)]
    if not names:
        return None
    start = {name: found[0][name][0] for name in names}
    slopes = [np.mean([own[name][1] / start[name] for name in names], axis=0) for own in found]
    losses = [float(np.mean([own[name][0] / start[name] for name in names])) for own in found]
    mean = np.einsum("k,kw->w", SIMPSON, slopes)
    numbers = recipe.numbers
    moved = 1 / len(recipe.sources) - np.array([numbers[c] for c in wanted])
    return Gains(losses[0] - losses[1], _rows(wanted, moved * mean, n_layers))


def weight_coordinates(recipe: Recipe) -> tuple[Coordinate, ...]:
    """Return the numbers of the recipe that are sources' weights; none if its layers are others."""
    if recipe.slices or recipe.mixture is not None or recipe.experts is not None:
        return ()
    return tuple(c for c in recipe.coordinates if c.knob == WEIGHT and c.source is not None)


def _losses(measured: Measured, wanted: Sequence[Coordinate]) -> dict[str, tuple[float, Floats]]:
    """Return the losses that have slopes in all weights, and these slopes."""
    return {
        name: (slope.loss, np.array([slope.by[c] for c in wanted]))
        for name, slope in measured.slopes.items()
        if all(c in slope.by for c in wanted)
    }


def _rows(wanted: Sequence[Coordinate], found: Floats, n_layers: int) -> tuple[KnobRow, ...]:
    grouped: dict[tuple[str, str], list[float]] = {}
    for coordinate, gain in zip(wanted, found.tolist(), strict=True):
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
