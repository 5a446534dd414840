"""What surrogates of smooth losses say of goals, of which a group has several.

A goal that is no group has one part, whose smooth loss stands for it as it is. A group is made of
its members' values, so their surrogates, which know a loss up to a constant and in a unit of its
own, are first brought to the scale of the values that were measured: v ≈ offset + factor ·
surrogate. Then the mean, or the largest, of what they predict is the group's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

from automerge.arrays import Bools, Floats
from automerge.samplers.base import Slopes, Told
from automerge.samplers.gradient_process import Surrogate

Kind = Literal["single", "mean", "worst"]

MIN_MEASURED = 3
"""Trials that tell a member's scale; with fewer, members are taken to be equally steep."""
PRIOR_TRIALS, LEAST_FACTOR = 4.0, 0.1
"""How many trials the ratio of spreads is worth beside the slope of the regression, and the least
share of that ratio a factor may be."""
LEAST_SHARE = 0.1
"""The share of the measured variance that is at least taken to be none of the errors'."""
LEAST_WIDTH = 0.01
"""The least width of a largest value's rounded edge, in ranges of the members' values."""


@dataclass(frozen=True)
class Shape:
    """Of each goal its kind and which parts are its own, in order."""

    goals: tuple[tuple[Kind, slice], ...]

    @property
    def n_parts(self) -> int:
        """The number of parts of all goals together."""
        return sum(own.stop - own.start for _, own in self.goals)


def shape_of(told: Told) -> Shape:
    """Return how the goals are made of parts, which is the same for every trial."""
    found: list[tuple[Kind, slice]] = []
    members = told.members or (None,) * len(told.losses)
    first = 0
    for own in members:
        size = 1 if own is None else len(own.losses)
        kind: Kind = "single" if own is None else "worst" if own.worst else "mean"
        found.append((kind, slice(first, first + size)))
        first += size
    return Shape(tuple(found))


def part_slopes(told: Told) -> tuple[Slopes | None, ...]:
    """Return the slopes of every part, in the order of `shape_of`; None where a part has none."""
    members = told.members or (None,) * len(told.losses)
    goals = told.slopes or (None,) * len(told.losses)
    found: list[Slopes | None] = []
    for own, slopes in zip(members, goals, strict=True):
        if own is None:
            found.append(slopes)
        else:
            found += own.slopes or (None,) * len(own.losses)
    return tuple(found)


def part_losses(told: Told) -> Floats:
    """Return the losses of every part and their errors, (parts, 2); those of goals for singles."""
    members = told.members or (None,) * len(told.losses)
    errors = told.errors or (0.0,) * len(told.losses)
    found: list[tuple[float, float]] = []
    for own, loss, error in zip(members, told.losses, errors, strict=True):
        found += [(loss, error)] if own is None else zip(own.losses, own.errors, strict=True)
    return np.array(found, dtype=np.float64)


@dataclass(frozen=True)
class Scale:
    """What parts' surrogates say in the unit of their goals: offset + factor · surrogate.

    `offsets` and `factors` are (parts,); `widths`, (goals,), say within how much of the largest
    value others count too.
    """

    offsets: Floats
    factors: Floats
    widths: Floats


@dataclass(frozen=True)
class GoalModel:
    """What parts' surrogates say of the goals, up to a constant for those that are no group."""

    shape: Shape
    surrogates: Sequence[Surrogate]
    scale: Scale

    def values(self, at: Floats) -> Floats:
        """Return the goals' losses at points, (k, goals)."""
        parts = self._parts(at)
        rows = zip(self.shape.goals, self.scale.widths.tolist(), strict=True)
        return np.stack([combined(kind, parts[:, own], width) for (kind, own), width in rows], 1)

    def jacobian(self, at: Floats) -> Floats:
        """Return the derivatives of the goals in the parts' surrogates: (k, goals, parts)."""
        parts = self._parts(at)
        found = np.zeros((len(at), len(self.shape.goals), parts.shape[1]))
        for goal, (kind, own) in enumerate(self.shape.goals):
            found[:, goal, own] = shares(kind, parts[:, own], self.scale.widths[goal])
        return found * self.scale.factors

    def mixture(self, at: Floats, weights: Floats) -> tuple[float, Floats]:
        """Return a weighted sum of the goals, and its slope, at a point (d,)."""
        row = at[None]
        by_part = weights @ self.jacobian(row)[0]
        slope = sum(w * s.slope(row)[0] for w, s in zip(by_part, self.surrogates, strict=True))
        return float(self.values(row)[0] @ weights), np.asarray(slope)

    def _parts(self, at: Floats) -> Floats:
        raw = np.stack([surrogate.value(at) for surrogate in self.surrogates], axis=1)
        return np.asarray(self.scale.offsets + self.scale.factors * raw)


def combined(kind: Kind, parts: Floats, width: float) -> Floats:
    """Return the loss of a goal, (k,), from those of its parts, (k, parts).

    The largest is w log Σ exp(v / w), which is at most w log n above it: so both of two members
    that are nearly as bad are improved, where the largest alone would have an edge.
    """
    if kind != "worst":
        return np.asarray(parts.mean(axis=1))
    return np.asarray(width * special.logsumexp(parts / width, axis=1))


def shares(kind: Kind, parts: Floats, width: float) -> Floats:
    """Return the derivatives of `combined` in the parts' losses, which sum to 1: (k, parts)."""
    if kind != "worst":
        return np.full(parts.shape, 1 / parts.shape[1])
    return np.asarray(special.softmax(parts / width, axis=1))


def calibrated(shape: Shape, raw: Floats, measured: Floats, steepness: Floats) -> Scale:
    """Return how surrogates of groups' members relate to the values that were measured.

    A factor is that of the regression of values on surrogates, as if `PRIOR_TRIALS` more had the
    ratio of their spreads, errors taken off. The edge of a largest value is as wide as the levels
    are uncertain: which of two members is worse is not known any better.

    Args:
        shape: of the goals.
        raw: what surrogates say at points that were measured, (n, parts).
        measured: the parts' losses there and their errors, (n, parts, 2).
        steepness: the norm of each part's first slopes, (parts,), for parts with few values.
    """
    offsets, factors = np.zeros(shape.n_parts), np.ones(shape.n_parts)
    widths = np.ones(len(shape.goals))
    for g, (kind, own) in enumerate(shape.goals):
        if kind == "single":
            continue
        values, errors = measured[:, own, 0], np.nan_to_num(measured[:, own, 1], posinf=0.0)
        usable = np.isfinite(values).all(axis=1)
        values, errors, said = values[usable], errors[usable], raw[usable][:, own]
        if len(values) < MIN_MEASURED or not (np.ptp(said, axis=0) > 0).all():
            levels = values.mean(axis=0) if len(values) else np.zeros(own.stop - own.start)
            unit = float(np.ptp(levels)) or 1.0
            steep = np.where(steepness[own] > 0, steepness[own], 1.0)
            factors[own], widths[g] = unit / steep, unit
            offsets[own] = levels - (said.mean(axis=0) * factors[own] if len(values) else 0.0)
            continue
        fits = [_regressed(said[:, i], values[:, i], errors[:, i]) for i in range(said.shape[1])]
        offsets[own], factors[own], doubts = np.array(fits).T
        span = float(values.max() - values.min())
        widths[g] = max(float(np.mean(doubts)), LEAST_WIDTH * span) or 1.0
    return Scale(offsets, factors, widths)


def _regressed(said: Floats, values: Floats, errors: Floats) -> tuple[float, float, float]:
    """Return offset and factor of v ≈ offset + factor · s, and the standard error of its level."""
    unit = float(np.mean(errors**2)) or 1.0
    weights = 1 / (errors**2 + unit)
    weights /= weights.mean()
    x, y = said - np.average(said, weights=weights), values - np.average(values, weights=weights)
    spread, variance = float(np.mean(weights * x**2)), float(np.mean(weights * y**2))
    true = max(variance - float(np.mean(weights * errors**2)), LEAST_SHARE * variance)
    ratio = float(np.sqrt(true / spread))
    n = len(values)
    # (Σ w x y + κ s² r) / (Σ w x² + κ s²) with Σ w = n, s² the variance of x and r the ratio
    found = (float(np.sum(weights * x * y)) + PRIOR_TRIALS * spread * ratio) / (
        (n + PRIOR_TRIALS) * spread
    )
    factor = max(found, LEAST_FACTOR * ratio)
    rest = values - factor * said
    offset = float(np.average(rest, weights=weights))
    doubt = float(np.sqrt(np.mean(weights * (rest - offset) ** 2) / n))
    return offset, factor, doubt


def near(distances: Floats, reach: float, least: int) -> Bools:
    """Return which points are within reach of a slope, or all where they are fewer than `least`.

    Args:
        distances: of each point to the nearest one with slopes, (n,).
        reach: how far slopes are believed.
        least: how many points are needed.
    """
    found = distances <= reach
    return np.asarray(found if found.sum() >= least else np.ones_like(found))
