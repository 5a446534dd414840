"""What is known of one branch of a space from slopes: where they were taken, and what they say."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from automerge.arrays import Floats, Indices
from automerge.samplers.gradient_process import (
    Surrogate,
    best_hyperparameters,
    fit,
    relative_lengths,
)

MAX_ROWS = 1500
"""Slopes a surrogate is made from at most, points times coordinates: it costs their cube."""
MAX_FIT_ROWS = 500
"""The same where hyperparameters are chosen."""
FITTED_AGAIN = 1.3
"""How many times more points there are when hyperparameters are chosen again."""


@dataclass
class Region:
    """Points (roles,), and slopes (parts, smooth roles) at them, in units of the prior's scales.

    Attributes:
        step: how far a coordinate may go from a point that was measured.
        noisier: by how much the slopes at each point are noisier than on many items.
        smooth: the columns of the roles with slopes; None before there are any.
        fitted: how many points hyperparameters were last chosen from, and these: length scale and
            noise of each part.
    """

    step: float
    points: list[Floats] = field(default_factory=list)
    slopes: list[Floats] = field(default_factory=list)
    noisier: list[float] = field(default_factory=list)
    smooth: Indices | None = None
    fitted: tuple[int, list[tuple[float, float]]] = (0, [])
    _surrogates: tuple[int, list[Surrogate]] = (0, [])

    def surrogates(self) -> list[Surrogate]:
        """Return a surrogate per part, of the latest points that there is room for."""
        assert self.smooth is not None
        n = len(self.points)
        if self._surrogates[0] == n:
            return self._surrogates[1]
        points, slopes = np.array(self.points), np.array(self.slopes)
        noisier = np.array(self.noisier)
        size = len(self.smooth)
        relative = relative_lengths(slopes, self.smooth, points.shape[1])
        if n >= FITTED_AGAIN * self.fitted[0]:
            rows = slice(-max(2, MAX_FIT_ROWS // size), None)
            targets = [slopes[rows, part] for part in range(slopes.shape[1])]
            self.fitted = (
                n,
                best_hyperparameters(points[rows], targets, self.smooth, relative, noisier[rows]),
            )
        rows = slice(-max(4, MAX_ROWS // size), None)
        found = [
            fit(
                points[rows],
                slopes[rows, part],
                self.smooth,
                length * relative,
                noise,
                noisier[rows],
            )
            for part, (length, noise) in enumerate(self.fitted[1])
        ]
        self._surrogates = n, found
        return found
