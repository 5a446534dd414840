import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from automerge.estimation import interval, mean_interval, wilson_interval
from automerge.objective import ItemScores, estimate


def scores(values, weights=None):
    items = tuple(("task", i) for i in range(len(values)))
    plain = tuple(float(v) for v in values)
    return ItemScores(items, plain, None if weights is None else tuple(map(float, weights)))


@pytest.mark.parametrize(("k", "n"), [(0, 5), (1, 5), (3, 10), (40, 50), (50, 50), (617, 1000)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_limits_are_where_the_score_test_turns(k, n, level):
    z = stats.norm.ppf((1 + level) / 2)

    def excess(p):
        return (k / n - p) ** 2 - z**2 * p * (1 - p) / n

    low, high = wilson_interval(k, n, level)
    if k > 0:
        assert low == pytest.approx(optimize.brentq(excess, 1e-12, min(k / n, 1 - 1e-6)), abs=1e-9)
    if k < n:
        assert high == pytest.approx(optimize.brentq(excess, max(k / n, 1e-6), 1 - 1e-12), abs=1e-9)
    expected = stats.binomtest(k, n).proportion_ci(level, method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high))


def test_binary_means_take_wilsons_interval():
    found = interval(scores([1, 0, 1, 1]), "mean")
    assert (found.low, found.high) == pytest.approx(wilson_interval(3, 4))
    assert (found.value, found.n) == (0.75, 4)


def test_wilson_covers_about_as_often_as_it_says_summed_over_all_outcomes():
    n, level = 40, 0.95
    limits = [wilson_interval(k, n, level) for k in range(n + 1)]
    coverage = [
        sum(stats.binom.pmf(k, n, p) for k, (low, high) in enumerate(limits) if low <= p <= high)
        for p in np.linspace(0.05, 0.95, 19)
    ]
    assert np.mean(coverage) == pytest.approx(level, abs=0.01)
    assert min(coverage) > 0.91


def test_other_means_take_students_t():
    values = np.random.default_rng(1).gamma(2, 1, 30)
    found = interval(scores(values), "mean", 0.9)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_perplexity_limits_are_those_of_the_mean_log_likelihood():
    values = np.random.default_rng(2).normal(-3, 1, 40)
    found = interval(scores(values), "perplexity")
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    limits = (math.exp(-expected.high), math.exp(-expected.low))
    assert (found.low, found.high) == pytest.approx(limits)
    assert found.low < found.value < found.high


@pytest.mark.parametrize("aggregation", ["weighted_perplexity", "bits_per_byte", "ratio"])
def test_ratio_intervals_agree_with_a_bootstrap(aggregation):
    rng = np.random.default_rng(3)
    weights = rng.integers(50, 150, 400)
    values = -weights * rng.normal(1.1, 0.2, 400)
    found = interval(scores(values, weights), aggregation)
    rows = rng.integers(0, 400, (4000, 400))
    ratios = values[rows].sum(axis=1) / weights[rows].sum(axis=1)
    limits = np.quantile(ratios, [0.975, 0.025])
    expected = {
        "weighted_perplexity": np.exp(-limits),
        "bits_per_byte": -limits / math.log(2),
        "ratio": limits[::-1],
    }[aggregation]
    assert (found.low, found.high) == pytest.approx(tuple(expected), rel=0.01)
    assert found.high - found.low == pytest.approx(expected[1] - expected[0], rel=0.1)


def test_no_items_say_nothing():
    found = interval(scores([]), "mean")
    assert found.n == 0
    assert all(math.isnan(v) for v in (found.value, found.low, found.high))


def test_equal_scores_of_unknown_range_have_no_limits():
    for aggregation in ("mean", "perplexity", "weighted_perplexity", "bits_per_byte"):
        found = interval(scores([-7.0, -7.0, -7.0]), aggregation)
        assert found.high == math.inf


@given(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=30),
    st.sampled_from([0.8, 0.95]),
)
@settings(max_examples=80)
def test_intervals_contain_the_value_and_are_never_of_width_zero(values, level):
    found = interval(scores(values), "mean", level)
    assert found.low <= found.value + 1e-12
    assert found.high >= found.value - 1e-12
    assert found.high - found.low > 1e-3
    assert found.value == estimate(scores(values), "mean").value


def test_equal_unit_scores_fall_back_to_wilsons_bound():
    n, z = 12, stats.norm.ppf(0.975)
    found = interval(scores([0.5] * n), "mean")
    share = z**2 / (n + z**2)
    assert (found.low, found.high) == pytest.approx((0.5 - share / 2, 0.5 + share / 2))
    ones = interval(scores([1.0] * n), "mean")
    assert (ones.low, ones.high) == pytest.approx((1 - share, 1.0))


def test_mean_intervals_add_in_quadrature_between_groups_and_fully_within():
    a, b = interval(scores([1, 0, 1, 1]), "mean"), interval(scores([0, 0, 1]), "mean")
    apart, together = mean_interval([a, b], ["x", "y"]), mean_interval([a, b], ["x", "x"])
    down = (a.value - a.low, b.value - b.low)
    assert apart.value == pytest.approx((a.value + b.value) / 2)
    assert apart.value - apart.low == pytest.approx(math.hypot(*down) / 2)
    assert together.value - together.low == pytest.approx(sum(down) / 2)
    assert apart.n == 7


def test_the_mean_of_one_interval_is_itself():
    a = interval(scores([1, 0, 1, 1]), "mean")
    mean = mean_interval([a], ["x"])
    found = (mean.value, mean.low, mean.high, mean.stderr)
    assert found == pytest.approx((a.value, a.low, a.high, a.stderr))


def test_mean_interval_covers_the_mean_of_several_tasks():
    rng = np.random.default_rng(5)
    truth, n, hits = np.array([0.3, 0.6, 0.9]), 80, 0
    for _ in range(600):
        parts = [interval(scores(rng.random(n) < p), "mean") for p in truth]
        mean = mean_interval(parts, ["a", "b", "c"])
        hits += mean.low <= truth.mean() <= mean.high
    assert 0.93 < hits / 600 < 0.975
