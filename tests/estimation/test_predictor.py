"""Guesses of items from scores and margins."""

from __future__ import annotations

import numpy as np
import pytest

from automerge.estimation.factors import FIRST_FIT
from automerge.estimation.margins import (
    TEMPERATURE_SHARE,
    above_half,
    right_probability,
    temperature,
)
from automerge.estimation.predictor import Predictor
from automerge.estimation.scoreboard import Scoreboard
from automerge.objective import ItemScores, Objective

N_ITEMS, N_SEEN, N_CANDIDATES = 300, 60, 60
POOL = {"o": [("t", i) for i in range(N_ITEMS)]}
OBJECTIVES = (Objective("o", "t", "acc", "none", "maximize"),)


def test_a_temperature_is_a_share_of_the_median_margin() -> None:
    assert temperature(np.array([-8.0, 1.0, 3.0])) == 3 * TEMPERATURE_SHARE
    assert temperature(np.array([])) == 1.0
    assert temperature(np.zeros(5)) == 1.0


def test_probabilities_of_margins_and_of_being_right() -> None:
    assert right_probability(np.array([0.0, 2.0]), 2.0).tolist() == pytest.approx([0.5, 0.7310586])
    assert right_probability(np.array([-1e9, 1e9]), 1e-9).tolist() == [0, 1]
    # Φ(1) and Φ(−2), from any table
    found = above_half(np.array([0.8, 0.3]), np.array([0.09, 0.01]))
    assert found.tolist() == pytest.approx([0.8413447, 0.0227501], abs=1e-6)


def world(seed: int) -> np.ndarray:
    """Margins that are linear in what distinguishes candidates, with little noise."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(N_CANDIDATES, 2)) @ rng.normal(size=(2, N_ITEMS))
    noise = 0.1 * rng.normal(size=table.shape)
    return np.asarray(5 * (table + rng.normal(0.5, 1.5, N_ITEMS) + noise))


def shown(row: np.ndarray, seen: np.ndarray) -> ItemScores:
    return ItemScores(tuple(("t", int(i)) for i in seen), tuple(row[seen].tolist()))


def errors(with_margins: bool, seeds: range) -> tuple[np.ndarray, np.ndarray]:
    """Off by, and standard errors of, the second half of candidates, without positions."""
    off, stderr = [], []
    for seed in seeds:
        margins = world(seed)
        rng = np.random.default_rng(seed)
        board = Scoreboard(OBJECTIVES, POOL)
        for number, row in enumerate(margins):
            seen = np.sort(rng.permutation(N_ITEMS)[:N_SEEN])
            given = {"o": shown(row, seen)} if with_margins else {}
            board.add(None, {"o": shown((row > 0) * 1.0, seen)}, given, is_parent=number < 4)
        for candidate in range(N_CANDIDATES // 2, N_CANDIDATES):
            found = board.estimates(candidate)["o"]
            off.append(found.value - (margins[candidate] > 0).mean())
            stderr.append(found.stderr)
    return np.array(off), np.array(stderr)


def test_margins_make_errors_smaller_and_leave_them_honest() -> None:
    plain, _ = errors(with_margins=False, seeds=range(4))
    off, stderr = errors(with_margins=True, seeds=range(4))
    assert np.mean(off**2) < 0.9 * np.mean(plain**2)
    assert abs(off.mean()) < 0.01
    assert 0.84 < np.mean(np.abs(off) <= 1.645 * stderr) < 0.95


def test_the_order_in_which_scores_are_given_changes_no_bit() -> None:
    margins = world(9)
    rng = np.random.default_rng(9)
    one, other = Predictor(POOL), Predictor(POOL)
    for row in margins[: FIRST_FIT + 4]:
        seen = np.sort(rng.permutation(N_ITEMS)[:N_SEEN])
        for predictor, order in ((one, seen), (other, seen[::-1])):
            scores = {"o": shown((row > 0) * 1.0, order)}
            predictor.add(scores, {"o": shown(row, order)}, is_parent=False)
    for candidate in range(FIRST_FIT + 4):
        found = one.predictions(candidate)["o"]
        assert found.tobytes() == other.predictions(candidate)["o"].tobytes()


def test_guesses_begin_with_enough_candidates_and_are_probabilities_of_margins() -> None:
    predictor = Predictor({**POOL, "p": [("u", i) for i in range(30)]})
    for number, row in enumerate(world(3)[:20]):
        assert bool(predictor.predictions(0)) == (number >= FIRST_FIT)
        scores = {"o": shown((row > 0) * 1.0, np.arange(200))}
        scores["p"] = ItemScores(tuple(("u", i) for i in range(30)), tuple(-row[:30] - 40.0))
        predictor.add(scores, {"o": shown(row, np.arange(100))}, is_parent=number < 3)
    found = predictor.predictions(15)
    assert ((found["o"][:100] >= 0) & (found["o"][:100] <= 1)).all()
    assert found["p"].mean() < -30


def test_temperatures_are_the_parents_and_stay_once_there_is_enough_to_learn_from() -> None:
    pool = {"o": [("t", 0), ("t", 1), ("u", 0)], "p": [("v", 0)]}
    predictor = Predictor(pool)

    def enter(margin: float, *, is_parent: bool) -> dict[tuple[str, str], float]:
        items = (("t", 0), ("t", 1), ("u", 0))
        scores = {"o": ItemScores(items, (1.0,) * 3), "p": ItemScores((("v", 0),), (1.0,))}
        margins = {"o": ItemScores(items, (margin, margin, 10 * margin))}
        predictor.add(scores, margins, is_parent=is_parent)
        return predictor.temperatures

    assert predictor.temperatures == {}
    share = TEMPERATURE_SHARE
    assert enter(100.0, is_parent=False) == {("o", "t"): 100 * share, ("o", "u"): 1000 * share}
    assert enter(2.0, is_parent=True) == {("o", "t"): 2 * share, ("o", "u"): 20 * share}
    last = enter(4.0, is_parent=True)
    assert last == {("o", "t"): 3 * share, ("o", "u"): 30 * share}
    for _ in range(FIRST_FIT):
        assert enter(7.0, is_parent=False) == last
    assert enter(7.0, is_parent=True) == last
