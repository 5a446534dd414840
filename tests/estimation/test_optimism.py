import math

import pytest

from automerge.estimation import optimism
from automerge.objective import Estimate


def test_optimism_is_positive_where_the_search_looked_better():
    search = [Estimate(0.70, 0.03, 100), Estimate(0.66, 0.03, 100)]
    test = [Estimate(0.62, 0.04, 500), Estimate(0.64, 0.04, 500)]
    found = optimism(search, test, "maximize")
    assert found.value == pytest.approx(0.05)
    assert found.stderr == pytest.approx(0.05)
    assert found.models == 2


def test_optimism_of_a_minimised_objective_changes_sign():
    found = optimism([Estimate(7.0, 0, 10)], [Estimate(7.5, 0, 10)], "minimize")
    assert found.value == pytest.approx(0.5)


def test_optimism_of_no_models_is_unknown():
    assert math.isnan(optimism([], [], "maximize").value)
