"""What the search measured, for everything that is drawn of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from automerge.objective import Objective
from automerge.report.summary import Summary
from automerge.store.result import TrialResult


def measured_trials(summary: Summary) -> list[TrialResult]:
    """Return the trials with an estimate of any objective on search items."""
    objectives = summary.result.objectives
    return [t for t in summary.result.trials if any(t.search_estimate(o) for o in objectives)]


def search_losses(
    objectives: Sequence[Objective], trials: Sequence[TrialResult]
) -> NDArray[np.float64]:
    """Return the search's estimates as losses, (trials, objectives); NaN if unknown."""
    found = [[t.search_estimate(o) for o in objectives] for t in trials]
    rows = [
        [math.nan if e is None else o.loss(e.value) for o, e in zip(objectives, row, strict=True)]
        for row in found
    ]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(objectives))
