"""What a sampler was asked and told, as positions and losses."""

from __future__ import annotations

import numpy as np

from automerge.arrays import Floats
from automerge.samplers.base import Told
from automerge.space import Space
from automerge.trial import Params


class Memory:
    """The trials of a search, in the order they were told; failures are forgotten."""

    def __init__(self, space: Space, n_objectives: int) -> None:
        self._space = space
        self._n_objectives = n_objectives
        self._points: list[Floats] = []
        self._losses: list[tuple[float, ...]] = []
        self._errors: list[tuple[float, ...]] = []
        self._pending: dict[int, Floats] = {}
        self.asked = 0

    def __len__(self) -> int:
        return len(self._points)

    @property
    def points(self) -> Floats:
        """Positions of what succeeded, (n, roles + codes)."""
        return np.array(self._points).reshape(len(self), -1)

    @property
    def losses(self) -> Floats:
        """Losses of what succeeded, (n, m)."""
        return np.array(self._losses).reshape(len(self), self._n_objectives)

    @property
    def errors(self) -> Floats:
        """Standard errors of the losses, NaN where unknown, (n, m)."""
        return np.array(self._errors).reshape(len(self), self._n_objectives)

    @property
    def pending(self) -> tuple[Floats, ...]:
        """Positions that were asked for and not told yet."""
        return tuple(self._pending.values())

    def note(self, number: int, params: Params) -> None:
        """Remember that a trial was asked for."""
        self.asked += 1
        self._pending[number] = self._space.position(params)

    def enter(self, number: int, params: Params | None, told: Told | None) -> None:
        """Remember what was told of a trial, if the space can express it and it succeeded."""
        point = self._pending.pop(number, None)
        if point is None and params is not None:
            point = self._space.position(params)
        if point is not None and told is not None and told.is_finite:
            self._points.append(point)
            self._losses.append(told.losses)
            self._errors.append(told.errors or (np.nan,) * len(told.losses))
