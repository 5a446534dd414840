"""Drawing items again."""

from __future__ import annotations

import numpy as np

from automerge.estimation.bootstrap import resample_counts


def test_resampled_counts_are_multinomial():
    counts = resample_counts(np.random.default_rng(0), 20_000, 5)
    assert (counts.sum(axis=1) == 5).all()
    np.testing.assert_allclose(counts.mean(axis=0), 1.0, atol=0.03)
    np.testing.assert_allclose(counts.var(axis=0), 0.8, atol=0.03)
    covariance = np.cov(counts.T)
    np.testing.assert_allclose(covariance[0, 1:], -0.2, atol=0.03)
