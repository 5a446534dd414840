import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from automerge.estimation import (
    Difference,
    mean_difference,
    paired_difference,
    smallest_detectable_difference,
    tango_interval,
)
from automerge.objective import ItemScores, estimate


def scores(values, weights=None, first=0):
    items = tuple(("task", first + i) for i in range(len(values)))
    plain = tuple(float(v) for v in values)
    return ItemScores(items, plain, None if weights is None else tuple(map(float, weights)))


def pairs(only_a, only_b, n):
    a = [1] * only_a + [0] * only_b + [1] * (n - only_a - only_b)
    b = [0] * only_a + [1] * only_b + [1] * (n - only_a - only_b)
    return scores(a), scores(b)


TABLES = [(1, 7, 21), (9, 3, 50), (2, 2, 10), (30, 12, 600), (0, 4, 25), (1, 0, 8), (7, 1, 8)]


@pytest.mark.parametrize(("only_a", "only_b", "n"), TABLES)
def test_tango_limits_are_where_the_constrained_score_test_turns(only_a, only_b, n):
    """The nuisance parameter is found by maximising the likelihood numerically."""
    z = stats.norm.ppf(0.975)

    def score(delta):
        def minus_log_likelihood(q):
            p = q + delta
            rest = 1 - p - q
            return -(
                only_a * math.log(max(p, 1e-300))
                + only_b * math.log(max(q, 1e-300))
                + (n - only_a - only_b) * math.log(max(rest, 1e-300))
            )

        low, high = max(0.0, -delta), (1 - delta) / 2
        best = optimize.minimize_scalar(
            minus_log_likelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-13}
        )
        variance = n * (2 * best.x + delta - delta**2)
        return (only_a - only_b - n * delta) / math.sqrt(variance)

    low, high = tango_interval(only_a, only_b, n)
    if low > -1 + 1e-9:
        assert score(low) == pytest.approx(z, abs=2e-4)
    if high < 1 - 1e-9:
        assert score(high) == pytest.approx(-z, abs=2e-4)


@pytest.mark.parametrize(("only_a", "only_b", "n"), TABLES)
def test_tango_limits_solve_the_quartic_of_yang_sun_and_hardin(only_a, only_b, n):
    """Statistics in Medicine 32 (2013), 1336-1342: T² = z² as a polynomial in the difference."""
    b, c, g = only_a, only_b, stats.norm.ppf(0.975) ** 2
    quartic = [
        n**2 * (n / g + 1) ** 2,
        -n * (b - c) * (n / g + 1) * (4 * n / g + 1),
        2 * n * (b - c) ** 2 * (3 * n / g + 2) / g - n**2 * ((b + c) / g + 1),
        n * (b - c) * (2 * (b + c) / g + 1) - (b - c) ** 3 * (4 * n / g + 1) / g,
        (b - c) ** 2 * ((b - c) ** 2 / g - (b + c)) / g,
    ]
    scale = sum(abs(k) for k in quartic)
    for limit in tango_interval(only_a, only_b, n):
        assert np.polyval(quartic, limit) / scale == pytest.approx(0, abs=1e-8)


def test_tango_gives_the_published_interval_of_the_airway_data():
    """Fagerland, Lydersen & Laake (2014), Statistics in Medicine 33, 2850-2875."""
    assert tango_interval(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize(("p", "q"), [(0.1, 0.05), (0.02, 0.02), (0.3, 0.1)])
def test_tango_covers_about_as_often_as_it_says_summed_over_all_outcomes(p, q):
    n = 30
    covered = 0.0
    for only_a in range(n + 1):
        for only_b in range(n + 1 - only_a):
            counts = [only_a, only_b, n - only_a - only_b]
            probability = stats.multinomial.pmf(counts, n, [p, q, 1 - p - q])
            if probability > 1e-7:
                low, high = tango_interval(only_a, only_b, n)
                covered += probability * (low <= p - q <= high)
    assert 0.93 < covered <= 1


def test_binary_pairs_take_tangos_interval():
    found = paired_difference(*pairs(9, 3, 50), "mean")
    assert found.difference == pytest.approx(6 / 50)
    assert (found.low, found.high) == tango_interval(9, 3, 50)
    assert found.n == 50


def test_pairs_that_all_agree_leave_room_for_doubt():
    found = paired_difference(*pairs(0, 0, 10), "mean")
    z = stats.norm.ppf(0.975)
    assert found.high == pytest.approx(z**2 / (10 + z**2))
    assert found.low == pytest.approx(-found.high)
    assert not found.excludes_zero


def test_one_discordant_pair_of_one_is_not_evidence():
    assert not paired_difference(*pairs(1, 0, 1), "mean").excludes_zero


def test_other_means_take_students_t_on_differences():
    rng = np.random.default_rng(4)
    a, b = rng.normal(1, 1, 25), rng.normal(0.5, 1, 25)
    found = paired_difference(scores(a), scores(b), "mean", 0.9)
    expected = stats.ttest_rel(a, b).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(
    "aggregation", ["perplexity", "weighted_perplexity", "bits_per_byte", "ratio"]
)
def test_ratio_differences_agree_with_a_paired_bootstrap(aggregation):
    rng = np.random.default_rng(5)
    weights = rng.integers(50, 150, 500).astype(float)
    if aggregation == "perplexity":
        weights = np.ones(500)
    loss = rng.normal(1.1, 0.2, 500)
    a, b = -weights * loss, -weights * (loss + rng.normal(0.02, 0.05, 500))
    found = paired_difference(scores(a, weights), scores(b, weights), aggregation)
    rows = rng.integers(0, 500, (4000, 500))

    def value(x):
        ratio = x[rows].sum(axis=1) / weights[rows].sum(axis=1)
        if aggregation == "ratio":
            return ratio
        return -ratio / math.log(2) if aggregation == "bits_per_byte" else np.exp(-ratio)

    draws = value(a) - value(b)
    assert found.stderr == pytest.approx(draws.std(), rel=0.1)
    assert found.low == pytest.approx(np.quantile(draws, 0.025), abs=0.15 * found.stderr)
    assert found.high == pytest.approx(np.quantile(draws, 0.975), abs=0.15 * found.stderr)
    point_a, point_b = (estimate(scores(x, weights), aggregation).value for x in (a, b))
    assert found.difference == pytest.approx(point_a - point_b)


def test_only_common_items_count_in_any_order():
    rng = np.random.default_rng(6)
    values = rng.integers(0, 2, 60)
    a = scores(values[:50])
    order = rng.permutation(np.arange(10, 60))
    other = rng.integers(0, 2, 60)
    b = ItemScores(tuple(("task", int(i)) for i in order), tuple(float(other[i]) for i in order))
    found = paired_difference(a, b, "mean")
    assert found.n == 40
    assert found.difference == pytest.approx(values[10:50].mean() - other[10:50].mean())
    aligned = paired_difference(scores(values[10:50]), scores(other[10:50]), "mean")
    assert (found.low, found.high) == (aligned.low, aligned.high)


def test_without_common_items_nothing_is_known():
    found = paired_difference(scores([1, 0]), scores([1, 0], first=10), "mean")
    assert found.n == 0
    assert math.isnan(found.difference)
    assert not found.excludes_zero


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0])),
        min_size=1,
        max_size=25,
    )
)
@settings(max_examples=120)
def test_differences_are_antisymmetric_contained_and_never_of_width_zero(rows):
    a, b = (scores([row[side] for row in rows]) for side in (0, 1))
    there, back = paired_difference(a, b, "mean"), paired_difference(b, a, "mean")
    assert there.difference == pytest.approx(-back.difference)
    assert there.low == pytest.approx(-back.high, abs=1e-9)
    assert there.low <= there.difference + 1e-9
    assert there.high >= there.difference - 1e-9
    assert there.high - there.low > 1e-3


def test_differences_of_unknown_range_that_all_agree_have_no_limits():
    found = paired_difference(scores([5, 7, 9]), scores([4, 6, 8]), "mean")
    assert (found.low, found.high) == (-math.inf, math.inf)


@pytest.mark.parametrize(("flips", "n", "expected"), [(0.1, 313, 0.05), (0.2, 3919, 0.02)])
def test_smallest_detectable_difference_follows_the_normal_formula(flips, n, expected):
    stderr = math.sqrt(flips / n)
    z = stats.norm.ppf(0.975)
    found = Difference(0.0, -z * stderr, z * stderr, stderr, n)
    assert smallest_detectable_difference(found) == pytest.approx(expected, rel=0.002)


def test_a_true_difference_of_that_size_is_found_four_times_in_five():
    rng = np.random.default_rng(8)
    n, flips = 400, 0.15
    typical = paired_difference(*pairs(30, 30, n), "mean")
    size = smallest_detectable_difference(typical)
    p, q = (flips + size) / 2, (flips - size) / 2
    found = 0
    for only_a, only_b, _ in rng.multinomial(n, [p, q, 1 - p - q], 600):
        found += tango_interval(int(only_a), int(only_b), n)[0] > 0
    assert 0.75 < found / 600 < 0.86


def test_mean_differences_narrow_with_more_objectives():
    one = paired_difference(*pairs(9, 3, 50), "mean")
    mean = mean_difference([one, one, one, one], ["a", "b", "c", "d"])
    assert mean.difference == pytest.approx(one.difference)
    assert mean.high - mean.low == pytest.approx((one.high - one.low) / 2)
    shared = mean_difference([one, one, one, one], ["a"] * 4)
    assert shared.high - shared.low == pytest.approx(one.high - one.low)
