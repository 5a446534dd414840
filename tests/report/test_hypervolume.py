import itertools

import numpy as np
import pytest

from automerge.report.hypervolume import Box, hypervolume_of_sets, progress

from .factory import OBJECTIVES


def test_shares_are_those_worked_out_by_hand():
    """Worst (0, 0) and best (-1, -1): the reference is (0.1, 0.1), the box 1.1 wide."""
    found = hypervolume_of_sets(
        OBJECTIVES[:2], front=[[-1, 0], [0, -1]], parents=[[-0.5, -0.5]], uniform=[]
    )
    assert found.reference == pytest.approx({"maths": -0.1, "code": -0.1})
    assert found.ideal == pytest.approx({"maths": 1, "code": 1})
    assert found.front == pytest.approx((2 * 1.1 * 0.1 - 0.01) / 1.21)
    assert found.parents == pytest.approx(0.36 / 1.21)
    assert found.uniform is None


def test_one_objective_or_no_front_has_no_hypervolume():
    assert hypervolume_of_sets(OBJECTIVES[:1], [[-1]], [[0]], []) is None
    assert hypervolume_of_sets(OBJECTIVES[:2], [], [[0, 0]], []) is None


def test_progress_never_falls_and_ends_at_the_share_of_all():
    losses = np.random.default_rng(1).random((40, 3))
    losses[7] = np.nan
    found = progress(losses)
    assert len(found) == 40
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(found))
    assert found[-1] == pytest.approx(Box.around(losses).share(losses))


def test_progress_of_failures_only_is_empty():
    assert progress(np.full((3, 2), np.nan)) == []
