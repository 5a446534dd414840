"""Neighbour control variates: unbiased, calibrated, and better than the plain mean."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from automerge.estimation.narrow import narrowed
from automerge.estimation.neighbours import PRIOR_ITEMS, control_variates, predictions
from automerge.estimation.predictor import Predictor
from automerge.estimation.scoreboard import Scoreboard
from automerge.objective import Aggregation, ItemScores, Objective, estimate

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


@pytest.mark.slow
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


def test_settled_estimates_do_not_depend_on_the_order_of_entry():
    positions, table, rng = world(2)
    shows = [shown(row, np.sort(rng.choice(N_ITEMS, N_SEEN, replace=False))) for row in table]

    def estimates(order):
        board = Scoreboard(OBJECTIVES, POOL)
        at = {int(i): board.add(positions[i] if i else None, shows[i]) for i in order}
        board.settle()
        found = [board.estimates(at[i])["o"] for i in range(N_CANDIDATES)]
        return [[e.value for e in found], [e.stderr for e in found]]

    found = estimates(rng.permutation(N_CANDIDATES))
    np.testing.assert_allclose(found, estimates(range(N_CANDIDATES)), rtol=1e-6)


MIXED = (
    Objective("o", "t", "acc", "none", "maximize"),
    Objective("p", "u", "ppl", "none", "minimize", "perplexity"),
)


def mixed_scores(seed: int, candidates: int):
    """Positions, some lacking or equal, and rows of both objectives, NaN where not measured."""
    rng = np.random.default_rng(seed)
    positions = rng.uniform(size=(candidates, 3)).round(1)
    positions[3::11] = np.nan
    rows = {
        "o": rng.integers(0, 2, (candidates, N_ITEMS)).astype(float),
        "p": -rng.exponential(size=(candidates, N_ITEMS)),
    }
    for table in rows.values():
        for row in table[2:]:  # the first two are measured on all items
            row[rng.permutation(N_ITEMS)[N_SEEN:]] = np.nan
    return positions, rows


def item_scores(own: dict[str, np.ndarray]) -> dict[str, ItemScores]:
    scores = {}
    for objective in MIXED:
        row = own[objective.name]
        seen = np.flatnonzero(np.isfinite(row))[::-1]
        items = tuple((objective.task, int(i)) for i in seen)
        scores[objective.name] = ItemScores(items, tuple(row[seen].tolist()))
    return scores


def dense_estimate(table: np.ndarray, positions: np.ndarray, candidate: int, guess):
    """All of the matrix, candidates by items, at once; `guess` is one more predictor, or none."""
    away = np.linalg.norm(positions - positions[candidate], axis=1)
    away[np.isnan(away)] = np.inf
    away[candidate] = np.inf
    donors = [i for i in np.argsort(away, kind="stable")[:24] if np.isfinite(away[i])]
    seen = np.isfinite(table)
    seen[candidate] = False
    overall = np.where(seen, table, 0.0).sum() / max(seen.sum(), 1)
    item_means = (np.where(seen, table, 0.0).sum(axis=0) + overall) / (seen.sum(axis=0) + 1.0)
    predicted = predictions(table[donors], away[donors], item_means)
    guesses = [predicted, item_means, *([] if guess is None else [guess])]
    return control_variates(table[candidate], np.stack(guesses), usual_variance(table, candidate))


def usual_variance(table: np.ndarray, candidate: int) -> float | None:
    """Of the other candidates' scores about their item's mean, over items that two of them saw."""
    others = [column[np.isfinite(column)] for column in np.delete(table, candidate, axis=0).T]
    several = [column for column in others if len(column) > 1]
    if not several:
        return None
    squares = sum(float(((column - column.mean()) ** 2).sum()) for column in several)
    return squares / sum(len(column) - 1 for column in several)


@pytest.mark.parametrize("candidates", [1, 2, 20, 90])
def test_estimates_are_those_of_the_dense_matrix(candidates):
    positions, rows = mixed_scores(candidates, candidates)
    pools = {o.name: [(o.task, i) for i in range(N_ITEMS)] for o in MIXED}
    board, predictor = Scoreboard(MIXED, pools), Predictor(pools)
    for position, *own in zip(positions, *rows.values(), strict=True):
        scores = item_scores(dict(zip(rows, own, strict=True)))
        board.add(None if np.isnan(position).any() else position, scores)
        predictor.add(scores, {}, is_parent=False)
    for candidate in range(candidates):
        found = board.estimates(candidate)
        guesses = predictor.predictions(candidate)
        plain = dense_estimate(rows["o"], positions, candidate, guesses.get("o"))
        assert found["o"].value == pytest.approx(plain.value, abs=1e-12)
        assert found["o"].stderr == pytest.approx(plain.stderr, abs=1e-12)
        mean = dense_estimate(rows["p"], positions, candidate, guesses.get("p"))
        assert found["p"].value == pytest.approx(math.exp(-mean.value), rel=1e-12)
        assert found["p"].stderr == pytest.approx(math.exp(-mean.value) * mean.stderr, rel=1e-9)


def documents(seed: int, candidates: int = 30):
    """Log-likelihoods of documents, in nats, and their lengths in bytes.

    Documents differ in length and difficulty by far more than candidates do in quality.
    """
    rng = np.random.default_rng(seed)
    lengths = rng.integers(20, 400, N_ITEMS).astype(float)
    per_byte = 1.4 * np.exp(0.3 * rng.normal(size=N_ITEMS))
    quality = 1 + 0.02 * rng.normal(size=(candidates, 1))
    noise = 1 + 0.01 * rng.normal(size=(candidates, N_ITEMS))
    return -lengths * per_byte * quality * noise, lengths, rng


def ratio_board(seed: int, aggregation: Aggregation):
    """A board of candidates on 20 documents each, the first on all; and Σ y / Σ w of each."""
    table, lengths, rng = documents(seed)
    board = Scoreboard(
        (Objective("r", "t", "m", "none", "minimize", aggregation),), {"r": POOL["o"]}
    )
    plain = []
    for number, row in enumerate(table):
        seen = rng.choice(N_ITEMS, 20 if number else N_ITEMS, replace=False)
        items = tuple(("t", int(i)) for i in seen)
        scores = ItemScores(items, tuple(row[seen].tolist()), tuple(lengths[seen].tolist()))
        plain.append(estimate(scores, aggregation))
        board.add(rng.uniform(size=2), {"r": scores})
    board.settle()
    return [board.estimates(i)["r"] for i in range(len(table))], plain, table.sum(1) / lengths.sum()


@pytest.mark.sample(1)
@pytest.mark.parametrize("aggregation", ["ratio", "bits_per_byte", "weighted_perplexity"])
def test_a_ratio_is_estimated_with_the_help_of_other_candidates(aggregation):
    transform = {
        "ratio": lambda ratio: ratio,
        "bits_per_byte": lambda ratio: -ratio / math.log(2),
        "weighted_perplexity": lambda ratio: np.exp(-ratio),
    }[aggregation]
    ours, alone, covered = [], [], []
    for seed in range(4):
        found, plain, ratios = ratio_board(seed, aggregation)
        truth = transform(ratios)
        assert found[0].value == pytest.approx(truth[0], rel=1e-12)
        assert found[0].stderr == 0
        ours += [e.value - t for e, t in zip(found[1:], truth[1:], strict=True)]
        alone += [e.value - t for e, t in zip(plain[1:], truth[1:], strict=True)]
        covered += [
            abs(e.value - t) <= 1.96 * e.stderr for e, t in zip(found[1:], truth[1:], strict=True)
        ]
    # Difficulty varies by 30 % of a document's value and noise by 1 %: the rest is a candidate's.
    assert np.std(ours) < 0.2 * np.std(alone)
    assert np.mean(covered) > 0.85


def test_an_item_without_weight_is_left_out_of_a_ratio():
    board = Scoreboard(
        (Objective("r", "t", "m", "none", "minimize", "ratio"),), {"r": POOL["o"][:3]}
    )
    scores = ItemScores((("t", 0), ("t", 1), ("t", 2)), (-2.0, -1.0, 0.0), (2.0, 3.0, 0.0))
    board.add(None, {"r": scores})
    assert board.estimates(0)["r"].value == pytest.approx(-3 / 5)
    nothing = ItemScores((("t", 0),), (0.0,), (0.0,))
    board.add(None, {"r": nothing})
    found = board.estimates(1)["r"]
    assert math.isnan(found.value)
    assert found.n == 0


def test_few_equal_scores_leave_doubt_once_other_candidates_vary():
    rng = np.random.default_rng(0)
    board = Scoreboard(OBJECTIVES, POOL)
    board.add(None, shown((rng.random(N_ITEMS) < 0.7).astype(float), np.arange(200)))
    board.add(None, shown((rng.random(N_ITEMS) < 0.7).astype(float), np.arange(200)))
    lucky = board.add(None, shown(np.ones(N_ITEMS), np.arange(17)))
    # 4 of 20 degrees of freedom at a variance of about 0.7 · 0.3, on 17 items
    usual = 0.7 * 0.3
    expected = math.sqrt(4 / 20 * usual / 17 * (1 - 17 / N_ITEMS))
    assert board.estimates(lucky)["o"].stderr == pytest.approx(expected, rel=0.25)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=5))
def test_narrowed_values_are_the_same(values):
    given = np.array(values)
    assert narrowed(given).astype(np.float64).tobytes() == given.tobytes()


def test_a_candidate_costs_what_its_own_items_cost():
    """100 of 800 items of two objectives, kept twice: dense rows would be 26 kB."""
    pools = {o.name: [(o.task, i) for i in range(800)] for o in MIXED}
    board = Scoreboard(MIXED, pools)
    rng = np.random.default_rng(0)

    def enter(candidates: int) -> None:
        for _ in range(candidates):
            row = np.full((2, 800), np.nan)
            row[:, rng.permutation(800)[:100]] = rng.integers(0, 2, (2, 100))
            board.add(rng.uniform(size=10), item_scores({"o": row[0], "p": -row[1]}))

    enter(10)
    tracemalloc.start()
    try:
        enter(45)
        before = tracemalloc.get_traced_memory()[0]
        enter(30)
        assert tracemalloc.get_traced_memory()[0] - before < 30 * 4000
    finally:
        tracemalloc.stop()


def test_estimates_do_not_depend_on_what_comes_later_in_the_order_they_are_asked():
    positions, table, _ = world(1)
    board = Scoreboard(OBJECTIVES, POOL)
    board.add(positions[0], shown(table[0], np.arange(0, 90)))
    board.add(positions[1], shown(table[1], np.arange(60, 200)))
    first = board.estimates(1)
    assert board.estimates(1) == first


def pool(seen: list[float], predicted: list[list[float]], unseen: list[list[float]]):
    """A row of scores, and predictors: those of the items seen, then of the others."""
    row = np.array([*seen, *[math.nan] * len(unseen[0])])
    return row, np.array([a + b for a, b in zip(predicted, unseen, strict=True)])


def test_the_control_variate_by_hand():
    row, predictors = pool([0.0, 1.0, 1.0, 0.0], [[0.2, 0.8, 0.6, 0.4]], [[0.7, 0.9]])
    # Σ(y−½)(c−½) = 0.4 and Σ(c−½)² = 0.2 on items seen; C̄ = 0.6 and variance ⅓·0.17 in the pool.
    slope = 0.4 / (0.2 + PRIOR_ITEMS * 0.34 / 6)
    found = control_variates(row, predictors)
    assert found.value == pytest.approx(0.5 + slope * 0.1)
    assert found.n == 4


def test_the_standard_error_is_that_of_leave_one_out_residuals():
    rng = np.random.default_rng(4)
    n, n_pool = 25, 60
    predictors = rng.uniform(size=(3, n_pool))
    row = np.where(np.arange(n_pool) < n, predictors[0] + rng.normal(0, 0.3, n_pool), math.nan)
    prior = PRIOR_ITEMS * np.cov(predictors, bias=True)
    residuals = []
    for left_out in range(n):
        kept = np.delete(np.arange(n), left_out)
        about = predictors - predictors[:, :n].mean(axis=1, keepdims=True)
        design = np.vstack([np.ones(n - 1), about[:, kept]])
        penalty = np.pad(prior, ((1, 0), (1, 0)))  # the intercept is not shrunk
        beta = np.linalg.solve(design @ design.T + penalty, design @ row[kept])
        residuals.append(row[left_out] - beta @ np.append(1.0, about[:, left_out]))
    expected = math.sqrt(np.sum(np.square(residuals)) * (n - 1) / n**3 * (1 - n / n_pool))
    assert control_variates(row, predictors).stderr == pytest.approx(expected)


def test_predictors_that_say_nothing_leave_the_mean_and_its_usual_standard_error():
    row, predictors = pool([0.0, 1.0, 1.0, 0.0, 1.0], [[0.4] * 5, [0.4] * 5], [[0.4] * 5] * 2)
    found = control_variates(row, predictors)
    assert found.value == pytest.approx(0.6)
    assert found.stderr == pytest.approx(np.std(row[:5], ddof=1) / math.sqrt(5) * math.sqrt(0.5))


@pytest.mark.parametrize("rounding", [0.0, 1e-16, 1e-14])
def test_a_predictor_given_twice_up_to_rounding_counts_about_once(rounding):
    rng = np.random.default_rng(4)
    predictor = rng.uniform(size=(1, 300))
    row = np.where(np.arange(300) < 100, predictor[0] > 0.5, math.nan)
    once = control_variates(row, predictor)
    copies = np.repeat(predictor, 2, axis=0) + rounding * rng.normal(size=(2, 300))
    twice = control_variates(row, copies)
    assert twice.value == pytest.approx(once.value, abs=0.002)
    assert twice.stderr == pytest.approx(once.stderr, rel=0.02)
    again = control_variates(row, copies + 1e-15 * rng.normal(size=(2, 300)))
    assert again.value == pytest.approx(twice.value, abs=1e-12)


@pytest.mark.parametrize("n", [20, 50, 150])
def test_intervals_keep_their_level_with_predictors_good_and_useless(n):
    """Nominal 90 % from Student's distribution, over 600 pools of 300 items."""
    rng = np.random.default_rng(n)
    covered = []
    for _ in range(600):
        chance = rng.beta(0.6, 0.4, 300)
        truth = (rng.uniform(size=300) < chance).astype(float)
        seen = rng.permutation(300) < n
        predictors = np.stack([chance, rng.uniform(size=300), rng.uniform(size=300)])
        found = control_variates(np.where(seen, truth, math.nan), predictors)
        half = float(special.stdtrit(n - 1, 0.95)) * found.stderr
        covered.append(abs(found.value - truth.mean()) <= half)
    assert 0.87 <= np.mean(covered) <= 0.93


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
