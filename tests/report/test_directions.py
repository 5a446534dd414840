"""What each direction bought: exact where estimates are, honest where they are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from automerge.objective import Estimate
from automerge.report.directions import ALIKE, MIXTURES, Bought, directions
from automerge.store.result import StudyResult, TrialResult
from tests.report.factory import OBJECTIVES, study

GOALS = OBJECTIVES[:3]
WHOLE = study(GOALS, n_trials=1)
BEGUN = WHOLE.trials[:5]
MERGE = WHOLE.trials[-1].trial
EVEN = (1 / 3, 1 / 3, 1 / 3)
FIRST = (0.8, 0.1, 0.1)
MIXED = ((0.5, 0.3, 0.2), (0.2, 0.45, 0.35))


def found(
    begun: Sequence[Sequence[float]],
    proposed: Sequence[tuple[tuple[float, ...], Sequence[float]]],
    error: float = 0.0,
    points: bool = True,
) -> dict[str, Bought]:
    def trial(i: int, own: TrialResult, row: Sequence[float]) -> TrialResult:
        believed = {o.name: Estimate(v, error, 100) for o, v in zip(GOALS, row, strict=True)}
        return replace(own, believed=believed)

    trials = [trial(i, t, row) for i, (t, row) in enumerate(zip(BEGUN, begun, strict=False))]
    for direction, row in proposed:
        n = len(trials)
        own = replace(MERGE, number=n, name=f"t{n}", origin="sampler", direction=direction)
        trials.append(trial(n, TrialResult(own, {}), row))
    result: StudyResult = replace(WHOLE, trials=tuple(trials), front=(len(trials) - 1,))
    return {row.name: row for row in directions(result, points)}


BEGINNING = [[0.5, 0.6, 0.7], [0.7, 0.5, 0.6]]


def test_a_gain_is_in_the_proposals_own_trade_off() -> None:
    rows = found(
        BEGINNING,
        [
            (EVEN, [0.7, 0.7, 0.7]),
            (FIRST, [0.9, 0.4, 0.4]),
            (EVEN, [0.6, 0.6, 0.6]),
            (MIXED[0], [0.6, 0.6, 0.6]),
            (MIXED[1], [0.6, 0.7, 0.7]),
        ],
    )
    assert list(rows) == [ALIKE, "towards maths", MIXTURES]
    assert rows[ALIKE].gain == pytest.approx(0.1)
    assert rows["towards maths"].gain == pytest.approx(0.8 * 0.2 - 0.1 * 0.1 - 0.1 * 0.2)
    by_hand = [
        min(np.dot(w, np.array(row) - np.array(b)) for b in BEGINNING)
        for w, row in zip(MIXED, ([0.6, 0.6, 0.6], [0.6, 0.7, 0.7]), strict=True)
    ]
    assert rows[MIXTURES].gain == pytest.approx(max(by_hand))
    assert [row.trials for row in rows.values()] == [2, 1, 2]
    assert [row.front for row in rows.values()] == [0, 0, 1]
    assert all(row.low == row.high == pytest.approx(row.gain) for row in rows.values())


def test_goals_without_a_common_unit_count_in_ranges_of_what_there_was() -> None:
    rows = found(BEGINNING, [(EVEN, [0.8, 0.6, 0.7])], points=False)
    ranges = np.ptp(np.array(BEGINNING), axis=0)
    gains = [np.dot(EVEN, (np.array([0.8, 0.6, 0.7]) - b) / ranges) for b in BEGINNING]
    assert rows[ALIKE].gain == pytest.approx(min(gains))


def test_luck_is_not_a_gain() -> None:
    """Of proposals that are all as good as the beginning, the luckiest seems better."""
    rng = np.random.default_rng(0)
    low = []
    for _ in range(20):
        begun = 0.6 + 0.02 * rng.standard_normal((5, 3))
        lucky = 0.6 + 0.02 * rng.standard_normal((12, 3))
        rows = found(begun.tolist(), [(EVEN, row) for row in lucky.tolist()], error=0.02)
        low.append(rows[ALIKE].low)
    assert sum(x > 0 for x in low) <= 2


def test_nothing_is_said_without_directions() -> None:
    assert directions(study(), points=True) == ()
