"""Laws of deviations: modes are orthogonal, and a finer grid makes no merge more extreme."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from automerge.methods import METHODS
from automerge.samplers.random import draw
from automerge.space import (
    UNIFORM_SCALE,
    Knots,
    PerLayer,
    build_space,
    prior_fractions,
    prior_shares,
)
from automerge.space import deviations as of
from automerge.testing.spaces import plain_settings

GRIDS = [(1, 1), (1, 5), (3, 1), (2, 2), (3, 5), (4, 48)]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 48])
@pytest.mark.parametrize("modes", [of.contrasts, of.waves])
def test_modes_are_orthogonal_with_mean_square_one_and_begin_with_a_constant(modes, n) -> None:
    matrix = modes(n)
    np.testing.assert_allclose(matrix.T @ matrix / n, np.eye(n), atol=1e-12)
    np.testing.assert_array_equal(matrix[:, 0], 1.0)


def test_the_first_wave_is_a_trend_towards_the_last_layer() -> None:
    assert (np.diff(of.waves(7)[:, 1]) > 0).all()
    assert (of.waves(7)[-1] > 0).all()


def test_a_contrast_sets_a_component_against_those_before_it() -> None:
    matrix = of.contrasts(4)
    for i in range(1, 4):
        assert matrix[i, i] > 0
        assert len(set(matrix[:i, i])) == 1
        assert (matrix[i + 1 :, i] == 0).all()


@given(st.sampled_from(GRIDS), st.integers(0, 2**32 - 1))
def test_coefficients_invert_values(grid: tuple[int, int], seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=grid)
    np.testing.assert_allclose(of.values(of.coefficients(values)), values, atol=1e-12)
    assert of.coefficients(values)[0, 0] == pytest.approx(values.mean())


@pytest.mark.parametrize("grid", GRIDS[1:])
def test_values_deviate_as_much_whatever_the_grid(grid: tuple[int, int]) -> None:
    scales = of.scales(*grid, 0.1)
    # Coefficients are independent and modes have mean square one: variances add.
    rng = np.random.default_rng(0)
    drawn = [of.values(scales * rng.normal(size=grid)) for _ in range(4000)]
    # The mean square of 4,000 draws; few modes (one at least) have a relative error of √(2/4000).
    assert np.mean(np.square(drawn)) == pytest.approx(0.01, rel=4 * math.sqrt(2 / 4000))
    assert scales[0, 0] == 0.0


@given(st.floats(0.001, 0.28), st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_fractions_of_the_prior_are_truncated_normal(scale: float, shares: list[float]) -> None:
    law = stats.truncnorm(-0.5 / scale, 0.5 / scale, 0.5, scale)
    drawn = prior_fractions(np.array(shares), scale)
    np.testing.assert_allclose(drawn, law.ppf(shares), atol=1e-9)
    # In the tails, where no density is left, a share says little about the fraction.
    np.testing.assert_allclose(prior_shares(drawn, scale), shares, atol=1e-9)


def test_a_uniform_prior_is_left_alone() -> None:
    shares = np.linspace(0, 1, 11)
    np.testing.assert_array_equal(prior_fractions(shares, UNIFORM_SCALE), shares)
    np.testing.assert_array_equal(prior_shares(shares, UNIFORM_SCALE), shares)


def test_random_merges_of_a_finer_space_are_no_more_extreme() -> None:
    spread = {}
    for name, depth in (("coarse", Knots(2)), ("fine", PerLayer())):
        settings = plain_settings(
            "linear", depth=depth, components=(("attention",), ("mlp",), ("default",))
        )
        space = build_space(settings, "base", ("a", "b", "c"), 24, METHODS)
        found = []
        for seed in range(100):
            params = draw(space, np.random.default_rng(seed))
            for source in space.recipe(params).sources:
                values = [k for _, knots in source.knobs["weight"].parts for k in knots]
                found.append(np.std(values))
        spread[name] = np.mean(found)
    # Bounds at 0 and 1 take a little from both.
    assert spread["fine"] == pytest.approx(spread["coarse"], rel=0.25)
    assert 0.05 < spread["fine"] < 0.11
