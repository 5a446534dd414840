"""Rank correlation against SciPy's, and where it says nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from automerge.estimation.ranks import MIN_PAIRS, mean_ranks, spearman


@pytest.mark.parametrize("ties", [False, True])
def test_it_is_spearmans(ties):
    rng = np.random.default_rng(3)
    a = rng.normal(size=40)
    b = a + rng.normal(size=40)
    if ties:
        a, b = a.round(), b.round()
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    assert spearman(a, -np.exp(a)) == pytest.approx(-1, abs=1e-12)


def test_equal_values_have_the_mean_of_their_ranks():
    rng = np.random.default_rng(4)
    for n in (0, 1, 2, 40):
        ends = rng.choice([-0.0, 0.0, np.inf], n)
        for values in (rng.normal(size=n), rng.integers(0, 5, n), ends):
            assert mean_ranks(values).tolist() == stats.rankdata(values).tolist()


def test_it_says_nothing_of_few_pairs_or_constants():
    assert spearman(range(MIN_PAIRS - 1), range(MIN_PAIRS - 1)) is None
    assert spearman(range(MIN_PAIRS), range(MIN_PAIRS)) == pytest.approx(1)
    assert spearman(range(40), [1] * 40) is None
    assert spearman([], []) is None
