"""Groups whose tasks count alike, whatever their sizes: lm-eval's `weight_by_size: false`."""

from __future__ import annotations

import numpy as np
import pytest

from automerge.estimation import interval, paired_difference
from automerge.estimation.intervals import influence
from automerge.estimation.scoreboard import Scoreboard
from automerge.objective import ItemScores, Objective, estimate

SIZES = {"large": 40, "middle": 9, "small": 2}
ITEMS = tuple((task, doc) for task, n in SIZES.items() for doc in range(n))
MEANS = {"large": 0.8, "middle": 0.4, "small": 0.5}


def scores(rng, items=ITEMS, binary=True, shift=0.0):
    means = np.array([MEANS[task] + shift for task, _ in items])
    values = rng.random(len(items)) < means if binary else means + rng.normal(size=len(items))
    return ItemScores(items, tuple(map(float, values)))


def by_task(scores):
    names = dict.fromkeys(task for task, _ in scores.items)
    pairs = list(zip(scores.items, scores.values, strict=True))
    return [[value for (task, _), value in pairs if task == name] for name in names]


@pytest.mark.parametrize("binary", [True, False])
def test_value_and_standard_error_are_lm_evals_of_a_group(binary):
    from lm_eval.api.metrics import (
        aggregate_subtask_metrics,
        mean,
        mean_stderr,
        unweighted_mean_stderr,
    )

    for seed in range(5):
        found = scores(np.random.default_rng(seed), binary=binary)
        tasks = by_task(found)
        got = estimate(found, "mean_of_means")
        assert got.value == pytest.approx(
            aggregate_subtask_metrics(list(map(mean, tasks)), list(map(len, tasks)), False)
        )
        assert got.stderr == pytest.approx(unweighted_mean_stderr(list(map(mean_stderr, tasks))))


def test_tasks_of_one_size_give_the_plain_mean():
    items = tuple((task, doc) for task in "ab" for doc in range(10))
    found = ItemScores(items, tuple(map(float, np.random.default_rng(0).integers(2, size=20))))
    assert estimate(found, "mean_of_means").value == pytest.approx(estimate(found, "mean").value)
    plain, other = interval(found, "mean"), interval(found, "mean_of_means")
    assert (other.low, other.high) == pytest.approx((plain.low, plain.high))


def test_the_order_of_items_does_not_matter():
    found = scores(np.random.default_rng(3), binary=False)
    order = np.random.default_rng(4).permutation(len(ITEMS))
    again = estimate(found.rows(list(order)), "mean_of_means")
    assert again.value == pytest.approx(estimate(found, "mean_of_means").value)
    assert again.stderr == pytest.approx(estimate(found, "mean_of_means").stderr)


def test_influences_are_the_derivative_of_the_value_by_each_items_weight():
    # Leave an item's weight in its task's mean a little larger, by hand: (x - m_t) / (T n_t).
    found = scores(np.random.default_rng(1), binary=False)
    tasks, got = by_task(found), influence(found, "mean_of_means")
    expected = [
        len(ITEMS) * (value - np.mean(task)) / (3 * len(task)) for task in tasks for value in task
    ]
    unbiased = [np.sqrt((50 / 51) * len(t) / (len(t) - 1)) for t in tasks for _ in t]
    np.testing.assert_allclose(got, np.multiply(expected, unbiased), rtol=1e-12, atol=1e-12)
    assert abs(got.sum()) < 1e-9


def test_intervals_and_differences_cover_the_means_of_the_tasks():
    rng, trials = np.random.default_rng(5), 400
    sizes = {"large": 120, "middle": 40, "small": 25}
    items = tuple((task, doc) for task, n in sizes.items() for doc in range(n))
    true = float(np.mean(list(MEANS.values())))
    covered = differing = 0
    for _ in range(trials):
        a, b = scores(rng, items, shift=0.1), scores(rng, items)
        alone = interval(b, "mean_of_means")
        between = paired_difference(a, b, "mean_of_means")
        covered += alone.low <= true <= alone.high
        differing += between.low <= 0.1 <= between.high
    # The pooled mean is 0.67; 0.92 is 95 % less three standard errors of 400 trials.
    assert min(covered, differing) >= 0.92 * trials


@pytest.mark.parametrize("values", [{"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 0.0}])
def test_equal_scores_within_tasks_leave_room_for_doubt(values):
    items = tuple((task, doc) for task in values for doc in range(20 if task == "a" else 3))
    found = ItemScores(items, tuple(values[task] for task, _ in items))
    got = interval(found, "mean_of_means")
    assert 0 <= got.low <= got.value <= got.high <= 1
    # Wilson's bound at Kish's effective number: (Σ w)² / Σ w² = T² / Σ 1/n_t = 10.4 of 23 items
    assert got.high - got.low >= 3.84 / (10.5 + 3.84)
    same = paired_difference(found, found, "mean_of_means")
    assert same.low < same.difference == 0 < same.high


def test_the_search_estimates_the_mean_of_means_of_the_whole_pool():
    objective = Objective("g", "g", "acc", "none", "maximize", "mean_of_means")
    pool = tuple((t, d) for t, n in (("large", 900), ("small", 100)) for d in range(n))
    rng = np.random.default_rng(6)
    board, errors, squares, plain = Scoreboard([objective], {"g": pool}), [], [], []
    for _ in range(200):
        truth = {"large": rng.uniform(0.6, 0.9), "small": rng.uniform(0.1, 0.4)}
        picked = [pool[i] for i in rng.choice(len(pool), 100, replace=False)]
        values = tuple(float(rng.random() < truth[task]) for task, _ in picked)
        found = ItemScores(tuple(picked), values)
        number = board.add(None, {"g": found})
        got = board.estimates(number)["g"]
        errors.append(got.value - np.mean(list(truth.values())))
        squares.append(got.stderr**2)
        plain.append(estimate(found, "mean").value - np.mean(list(truth.values())))
    assert abs(np.mean(errors)) < 4 * np.std(errors) / np.sqrt(200)
    assert np.std(errors) == pytest.approx(np.sqrt(np.mean(squares)), rel=0.25)
    assert np.mean(plain) > 0.15


def test_a_candidate_that_saw_the_whole_pool_keeps_its_mean_of_means():
    objective = Objective("g", "g", "acc", "none", "maximize", "mean_of_means")
    board = Scoreboard([objective], {"g": ITEMS})
    for seed in range(4):
        found = scores(np.random.default_rng(seed))
        number = board.add(np.array([float(seed)]), {"g": found})
        got = board.estimates(number)["g"]
        assert got.value == pytest.approx(estimate(found, "mean_of_means").value, abs=1e-12)
