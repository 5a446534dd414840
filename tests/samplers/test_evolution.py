"""What `de` and `qd` keep of their trials, against definitions written naively."""

from __future__ import annotations

import numpy as np
import pytest

from automerge.pareto import dominates
from automerge.samplers.de import by_rank
from automerge.samplers.qd import N_BINS, elite

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_no_row_is_ranked_before_one_that_dominates_it(m: int) -> None:
    losses = RNG.uniform(size=(30, m))
    order = by_rank(losses)
    assert sorted(order) == list(range(30))
    for place, row in enumerate(order):
        for later in order[place + 1 :]:
            assert not dominates(tuple(losses[later]), tuple(losses[row]))


def test_of_a_front_its_ends_are_kept_and_the_most_crowded_goes_first() -> None:
    x = np.array([0.0, 0.5, 0.55, 0.6, 1.0])
    assert by_rank(np.column_stack([x, 1 - x]))[-1] == 2
    assert set(by_rank(np.column_stack([x, 1 - x]))[:2]) == {0, 4}


def test_a_cell_keeps_the_trial_of_best_quality() -> None:
    losses = RNG.uniform(size=(200, 3))
    for quality in range(3):
        kept, weights = elite(losses, quality)
        assert weights.sum() == pytest.approx(1)
        assert int(np.argmin(losses[:, quality])) in kept
        assert N_BINS < len(kept) <= N_BINS**2
        # A cell's elite is beaten in its quality by no other trial of its cell: so the elites of
        # all trials are those of the elites alone.
        again, _ = elite(losses[kept], quality)
        assert len(again) <= len(kept)


def test_with_one_objective_there_is_one_elite() -> None:
    kept, weights = elite(np.array([[3.0], [1.0], [2.0]]), 0)
    assert kept == [1]
    np.testing.assert_array_equal(weights, 1.0)
