"""When a search that wins nothing any more may stop."""

from __future__ import annotations

import numpy as np

from automerge.arrays import Floats
from automerge.samplers.base import Told

WINNING_ERRORS = 2.0
"""A trial wins against another by so many standard errors of their difference, in an objective."""


class Patience:
    """Counts trials since one won: was better, beyond errors, than each of those it is compared to.

    Trials are compared with all that were told up to the last win, not with those since: so small
    gains add up to a win, and a lucky measurement does not hide it.
    """

    def __init__(self, patience: int | None) -> None:
        self._patience = patience
        self._reference: list[tuple[Floats, Floats]] = []
        self._since: list[tuple[Floats, Floats]] = []
        self._waited = 0

    @property
    def is_exhausted(self) -> bool:
        """Whether as many trials as allowed won nothing."""
        return self._patience is not None and self._waited >= self._patience

    def enter(self, told: Told | None, proposed: bool) -> None:
        """Count a trial, in the order of the tells.

        Args:
            told: None for a failure.
            proposed: whether the sampler asked for it. Only such trials are waited for; the others
                are what there is to beat.
        """
        if self._patience is None:
            return
        self._waited += proposed
        if told is None or not told.is_finite:
            return
        losses = np.array(told.losses)
        errors = np.zeros_like(losses) if told.errors is None else np.array(told.errors)
        if told.known is not None:
            errors = np.where(told.known, errors, np.inf)
        # What is not known is not beaten, and beats nothing.
        here = (losses, np.where(np.isfinite(errors), errors, np.inf))
        if not proposed:
            self._reference.append(here)
            return
        self._since.append(here)
        if _wins(here, self._reference):
            self._reference += self._since
            self._since = []
            self._waited = 0


def _wins(here: tuple[Floats, Floats], others: list[tuple[Floats, Floats]]) -> bool:
    losses, errors = here
    if not others:
        return True
    gained = np.array([other for other, _ in others]) - losses
    spread = np.hypot(np.array([other for _, other in others]), errors)
    return bool((gained > WINNING_ERRORS * spread).any(axis=1).all())
