"""What parameters explain: independent computations, and what chance alone gives."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from automerge.report.associations import MIN_TRIALS, associate

RNG = np.random.default_rng(11)


def test_choices_are_judged_by_the_analysis_of_variance_of_ranks() -> None:
    choices = ["x", "y", "z"] * 20
    losses = RNG.normal(size=60) + np.tile([0.0, 0.0, 1.5], 20)
    found = associate(choices, losses, categorical=True)
    ranks = stats.rankdata(-losses)
    groups = [ranks[k::3] for k in range(3)]
    f = stats.f_oneway(*groups).statistic
    # ε² = (F − 1) / (F + (n − k) / (k − 1)), Kelley (1935)
    assert found.explained == pytest.approx((f - 1) / (f + 57 / 2))
    for share, tail in ((found.low, 0.975), (found.high, 0.025)):
        noncentrality = 60 * share / (1 - share)
        assert stats.ncf.cdf(f, 2, 57, noncentrality) == pytest.approx(tail, abs=1e-4)
    assert found.rank is None


def test_a_best_value_in_the_middle_explains_without_a_rank_correlation() -> None:
    x = np.linspace(-1, 1, 80)
    found = associate(x.tolist(), x**2 + RNG.normal(size=80) * 0.05, categorical=False)
    assert found.explained is not None
    assert found.rank is not None
    assert found.low > 0.4
    assert found.rank_low < 0 < found.rank_high


@pytest.mark.slow
def test_the_rank_correlation_is_scipys_and_its_interval_covers() -> None:
    hits, truth = 0, 6 / np.pi * np.arcsin(0.6 / 2)  # Spearman's ρ of a normal pair with r = 0.6
    for _ in range(300):
        pair = RNG.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], size=40)
        found = associate(pair[:, 0].tolist(), -pair[:, 1], categorical=False)
        assert found.rank == pytest.approx(stats.spearmanr(pair[:, 0], pair[:, 1]).statistic)
        hits += found.rank_low <= truth <= found.rank_high
    assert 0.91 <= hits / 300 <= 0.99


def test_chance_explains_nothing() -> None:
    """The mean of ε² is about 0 where values mean nothing, and intervals reach 0."""
    sizes, sure = [], 0
    for _ in range(300):
        losses = RNG.normal(size=24)
        choices = [str(c) for c in RNG.integers(0, 8, 24)]
        for values, categorical in ((choices, True), (RNG.uniform(size=24).tolist(), False)):
            found = associate(values, losses, categorical)
            assert found.explained is not None
            sizes.append(found.explained)
            sure += found.low > 0
    assert np.mean(sizes) < 0.08
    assert sure / len(sizes) < 0.05


@pytest.mark.parametrize("shape", ["ties", "two values", "all alike in a group"])
def test_numbers_that_repeat_are_kept_together(shape: str) -> None:
    x = {"ties": [0.0] * 30 + [0.5] * 5 + [1.0] * 5, "two values": [0.0] * 29 + [1.0] * 11}.get(
        shape, [0.0] * 20 + [1.0] * 20
    )
    losses = np.array(x) + (0 if shape == "all alike in a group" else RNG.normal(size=40) * 0.01)
    found = associate(x, losses, categorical=False)
    assert found.explained is not None
    assert found.explained > 0.5
    assert 0 <= found.low <= found.high <= 1


def test_too_little_says_nothing() -> None:
    few = associate([0.0, 1.0] * (MIN_TRIALS // 2 - 1), RNG.normal(size=MIN_TRIALS - 2), False)
    same = associate([1.0] * 20, RNG.normal(size=20), categorical=False)
    level = associate(list(range(20)), np.ones(20), categorical=False)
    unknown = associate(list(range(20)), np.full(20, np.nan), categorical=False)
    own = associate([str(k) for k in range(20)], RNG.normal(size=20), categorical=True)
    for found in (few, same, level, unknown, own):
        assert (found.explained, found.low, found.high) == (None, 0.0, 1.0)
    assert [f.n for f in (few, unknown)] == [MIN_TRIALS - 2, 0]
