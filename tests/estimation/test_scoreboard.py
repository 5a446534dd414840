"""Neighbour control variates: unbiased, calibrated, and better than the plain mean."""

from __future__ import annotations

import math

import numpy as np
import pytest

from automerge.estimation.neighbours import control_variate, predictions
from automerge.estimation.scoreboard import Scoreboard
from automerge.objective import ItemScores, Objective, estimate

N_ITEMS, N_SEEN, N_CANDIDATES = 400, 60, 40
OBJECTIVES = (Objective("o", "t", "acc", "none", "maximize"),)
POOL = {"o": [("t", i) for i in range(N_ITEMS)]}


def world(seed: int):
    """Positions in [0, 1]², and 0/1 scores that change slowly with them: item response theory."""
    rng = np.random.default_rng(seed)
    positions = rng.uniform(size=(N_CANDIDATES, 2))
    ability = 1.5 * np.exp(-4 * ((positions - 0.5) ** 2).sum(axis=1))
    difficulty, taste = rng.normal(0, 1.5, N_ITEMS), rng.normal(0, 1, (2, N_ITEMS))
    threshold = rng.logistic(size=N_ITEMS)  # the same draw for all candidates: greedy answers
    logits = ability[:, None] - difficulty + positions @ taste
    return positions, (logits > threshold * 0.3).astype(float), rng


def shown(rows: np.ndarray, seen: np.ndarray) -> dict[str, ItemScores]:
    return {"o": ItemScores(tuple(("t", int(i)) for i in seen), tuple(rows[seen].tolist()))}


def filled(seed: int):
    positions, table, rng = world(seed)
    board = Scoreboard(OBJECTIVES, POOL)
    plain = []
    for row, position in zip(table, positions, strict=True):
        seen = np.sort(rng.choice(N_ITEMS, N_SEEN, replace=False))
        scores = shown(row, seen)
        plain.append(estimate(scores["o"], "mean").value)
        board.add(position, scores)
    ours = [board.estimates(i)["o"] for i in range(N_CANDIDATES)]
    return table.mean(axis=1), np.array(plain), ours


def test_it_is_nearer_the_truth_than_the_plain_mean_and_its_errors_are_honest():
    errors, plain_errors, covered = [], [], []
    for seed in range(25):
        truth, plain, ours = filled(seed)
        values = np.array([e.value for e in ours])
        half = 1.645 * np.array([e.stderr for e in ours])
        errors.append(values - truth)
        plain_errors.append(plain - truth)
        covered.append(np.abs(values - truth) <= half)
    ratio = np.var(errors) / np.var(plain_errors)
    assert ratio < 0.6
    assert abs(np.mean(errors)) < 0.005
    assert 0.85 < np.mean(covered) < 0.95


def test_a_candidate_that_saw_all_items_keeps_its_mean_exactly():
    positions, table, _ = world(0)
    board = Scoreboard(OBJECTIVES, POOL)
    for row, position in zip(table, positions, strict=True):
        board.add(position, shown(row, np.arange(N_ITEMS)))
    for i in range(N_CANDIDATES):
        found = board.estimates(i)["o"]
        assert found.value == pytest.approx(table[i].mean(), abs=1e-12)
        assert found.stderr == 0


def test_a_first_candidate_and_one_without_a_position_have_their_own_mean_nearly():
    _, table, _ = world(0)
    board = Scoreboard(OBJECTIVES, POOL)
    board.add(None, shown(table[0], np.arange(50)))
    assert board.estimates(0)["o"].value == pytest.approx(table[0, :50].mean(), abs=1e-12)


def test_estimates_do_not_depend_on_what_comes_later_in_the_order_they_are_asked():
    positions, table, _ = world(1)
    board = Scoreboard(OBJECTIVES, POOL)
    board.add(positions[0], shown(table[0], np.arange(0, 90)))
    board.add(positions[1], shown(table[1], np.arange(60, 200)))
    first = board.estimates(1)
    assert board.estimates(1) == first


def test_the_control_variate_by_hand():
    values, predicted = np.array([0.0, 1.0, 1.0, 0.0]), np.array([0.2, 0.8, 0.6, 0.4])
    # slope = Σ(y−½)(c−½)/Σ(c−½)² = 0.4/0.2 = 2, shrunk by 4/14; ȳ − β(c̄ − 0.6) with c̄ = ½
    slope = 2 * 4 / 14
    found = control_variate(values, predicted, 0.6, 100)
    assert found.value == pytest.approx(0.5 + slope * 0.1)
    residuals = (values - 0.5) - slope * (predicted - 0.5)
    expected = math.sqrt((residuals**2).sum() / 2 / 4 * 0.96)
    assert found.stderr == pytest.approx(expected)


def test_predictions_are_kernel_means_of_who_saw_the_item():
    scores = np.array([[1.0, np.nan], [0.0, 1.0]])
    found = predictions(scores, np.array([0.0, 1.0]), np.array([0.5, 0.5]))
    near = math.exp(-0.5)
    assert found[0] == pytest.approx((1 + 0.25) / (1 + near + 0.5))
    assert found[1] == pytest.approx((near + 0.25) / (near + 0.5))


@pytest.mark.parametrize("aggregation", ["perplexity", "weighted_perplexity", "bits_per_byte"])
def test_other_aggregations_agree_with_the_plain_estimate_when_all_items_are_seen(aggregation):
    objective = Objective("o", "t", "ppl", "none", "minimize", aggregation)
    rng = np.random.default_rng(0)
    items = tuple(("t", i) for i in range(30))
    values = tuple((-rng.uniform(1, 3, 30)).tolist())
    weights = None if aggregation == "perplexity" else tuple(rng.integers(1, 9, 30).tolist())
    scores = {"o": ItemScores(items, values, weights)}
    board = Scoreboard((objective,), {"o": list(items)})
    board.add(np.zeros(1), scores)
    assert board.estimates(0)["o"].value == pytest.approx(estimate(scores["o"], aggregation).value)
