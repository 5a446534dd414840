"""The regression against scikit-learn's, and the sampler's own laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from automerge.pareto import hypervolume
from automerge.samplers.acquisition import improvement, tamed
from automerge.samplers.base import Told
from automerge.samplers.gaussian_process import (
    Columns,
    Hyperparameters,
    Pairs,
    condition,
    fit,
    negative_log_density,
    prior,
)
from automerge.samplers.gp import GpSampler
from automerge.samplers.random import RandomSampler
from automerge.testing.spaces import space

RNG = np.random.default_rng(0)
INPUTS = RNG.uniform(size=(30, 4))
VALUES = np.sin(4 * INPUTS[:, 0]) + INPUTS[:, 1] * INPUTS[:, 2] + 0.05 * RNG.normal(size=30)
COLUMNS = Columns((0, 1, 2, 2), 3, 3.0)
NO_TREND = (-math.inf, -math.inf)
HERE = Hyperparameters(np.log([0.4, 0.9, 1.3]), math.log(1.2), *NO_TREND, math.log(0.02))
ERRORS = RNG.uniform(0.01, 0.3, size=30)


def sklearn_posterior(points, errors=0.0):
    kernel = ConstantKernel(1.2) * Matern([0.4, 0.9, 1.3, 1.3], nu=2.5) + ConstantKernel(1.0)
    noise = 0.02 + 1e-8 + (errors / VALUES.std()) ** 2
    model = GaussianProcessRegressor(kernel, alpha=noise, optimizer=None, normalize_y=True)
    return model.fit(INPUTS, VALUES).predict(points, return_cov=True)


@pytest.mark.parametrize("errors", [None, ERRORS])
def test_posterior_means_at_the_inputs_are_scikit_learns(errors):
    mean, _ = sklearn_posterior(INPUTS, 0.0 if errors is None else errors)
    ours = condition(INPUTS, VALUES, COLUMNS, HERE, errors).fitted
    np.testing.assert_allclose(ours, mean, rtol=1e-6, atol=1e-9)


def test_draws_have_the_joint_distribution_of_scikit_learns_posterior():
    known, new = RNG.uniform(size=(5, 4)), RNG.uniform(size=(2, 4))
    normal = np.random.default_rng(1).standard_normal((60_000, 6))
    there, here = condition(INPUTS, VALUES, COLUMNS, HERE).draw(known, new, normal)
    for k in range(2):
        drawn = np.column_stack([there, here[:, k]])
        mean, covariance = sklearn_posterior(np.vstack([known, new[k : k + 1]]))
        np.testing.assert_allclose(
            drawn.mean(axis=0), mean, atol=4 * np.sqrt(covariance.max() / 6e4)
        )
        np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.03 * covariance.max())


def test_a_plane_and_a_bowl_are_known_far_from_the_data():
    rng = np.random.default_rng(5)
    slopes, columns = rng.normal(size=6), Columns(tuple(range(6)), 6, 6.0)

    def truth(points):
        return points @ slopes + 0.7 * ((points - 0.5) ** 2).sum(axis=1)

    near = 0.5 + 0.1 * rng.normal(size=(12, 6))
    here = Hyperparameters(np.zeros(6), -math.inf, 5.0, 5.0, math.log(1e-6))
    far = rng.uniform(size=(8, 6))
    _, drawn = condition(near, truth(near), columns, here).draw(near[:1], far, np.zeros((1, 2)))
    np.testing.assert_allclose(drawn[0], truth(far), atol=0.03)


@pytest.mark.parametrize("known", [np.zeros(30), ERRORS**2])
def test_gradient_is_that_of_finite_differences(known):
    median = prior(COLUMNS).vector
    pairs = Pairs.of(INPUTS, COLUMNS)
    vector = median + np.linspace(-0.5, 0.5, len(median))
    _, gradient = negative_log_density(vector, pairs, VALUES, known, median)
    numeric = optimize.approx_fprime(
        vector, lambda v: negative_log_density(v, pairs, VALUES, known, median)[0], 1e-6
    )
    np.testing.assert_allclose(gradient, numeric, rtol=1e-4, atol=1e-4)


def test_a_fit_is_better_than_where_it_started_and_finds_what_does_not_matter():
    rng = np.random.default_rng(3)
    inputs = rng.uniform(size=(60, 3))
    values = np.sin(6 * inputs[:, 0])
    columns = Columns((0, 1, 2), 3, 3.0)
    start = prior(columns)
    found = fit(inputs, values, columns)
    assert found.lengths[0] < found.lengths[1:].min() - 0.5
    pairs, standard = Pairs.of(inputs, columns), (values - values.mean()) / values.std()
    density = [
        negative_log_density(h.vector, pairs, standard, np.zeros(60), start.vector)[0]
        for h in (start, found)
    ]
    assert density[1] < density[0]


def test_a_fit_told_of_errors_finds_no_other_noise():
    rng = np.random.default_rng(6)
    inputs, columns = rng.uniform(size=(80, 2)), Columns((0, 1), 2, 2.0)
    errors = rng.uniform(0.1, 0.5, 80)
    values = np.sin(3 * inputs[:, 0]) + errors * rng.standard_normal(80)
    variance = float((errors**2).mean())
    assert math.exp(fit(inputs, values, columns).noise) * values.var() > 0.3 * variance
    assert math.exp(fit(inputs, values, columns, errors).noise) * values.var() < 0.1 * variance


@pytest.mark.sample(1)
@pytest.mark.parametrize("m", [1, 2, 3])
def test_improvement_is_the_hypervolume_gained(m):
    rng = np.random.default_rng(m)
    known, new = rng.uniform(0, 1, (6, m)), rng.uniform(0, 1, (20, m))
    directions = np.abs(rng.standard_normal((40_000, m)))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    ours = improvement([c[None] for c in known.T], [c[None] for c in new.T], directions)
    reference = np.zeros(m)
    before = hypervolume(-known, reference)
    gained = [hypervolume(-np.vstack([known, point]), reference) - before for point in new]
    # c_m = π^(m/2) / (2^m Γ(m/2 + 1)), Zhang and Golovin 2020, lemma 5
    constant = math.pi ** (m / 2) / (2**m * math.gamma(m / 2 + 1))
    np.testing.assert_allclose(constant * ours / len(directions), gained, atol=6e-3)


def test_taming_is_monotone_and_leaves_all_but_the_worst_alone():
    rows = np.array([[0.1], [0.2], [0.3], [0.5], [5.0], [1e6]])
    calm, errors = tamed(rows, np.full_like(rows, 0.01))
    assert (np.diff(calm[:, 0]) > 0).all()
    np.testing.assert_array_equal(calm[:4], rows[:4])
    assert calm[-1, 0] < 8
    np.testing.assert_array_equal(errors[:4], 0.01)
    step = 1e-6 * (rows == 5)
    slope = (tamed(rows + step, errors)[0] - calm)[4, 0] / 1e-6
    assert errors[4, 0] == pytest.approx(0.01 * slope, rel=1e-4)


def test_a_place_that_failed_is_not_proposed_again():
    sampler = GpSampler(space("task_arithmetic", leave_out=False), 1, 0, 60)
    rng = np.random.default_rng(0)
    failed = []
    for number in range(60):
        params = sampler.ask(number)
        bad = float(params["task_arithmetic.weight[a]"]) > 0.5
        failed.append(bad)
        sampler.tell(number, params, None if bad else Told((float(rng.normal()),)))
    assert len({repr(dict(p)) for p in [sampler.ask(60)]}) == 1
    assert np.mean(failed[-20:]) < 0.9


def test_a_space_of_choices_alone_is_searched_too():
    sampler = GpSampler(space("karcher"), 2, 0, 40)
    for number in range(20):
        params = sampler.ask(number)
        sampler.tell(number, params, Told((0.1 * number, -0.1 * number)))


@pytest.mark.slow
def test_it_comes_nearer_than_chance_where_losses_are_noisy():
    narrow = space("task_arithmetic", leave_out=False, switches=False)
    optimum = np.random.default_rng(1).uniform(size=len(narrow.roles))

    def best(sampler) -> float:
        rng = np.random.default_rng(4)
        reached = np.inf
        for number in range(50):
            params = sampler.ask(number)
            shares = narrow.position(params)[: len(narrow.roles)]
            true = float(np.mean((shares - optimum) ** 2))
            sampler.tell(number, params, Told((true + 0.01 * rng.normal(),)))
            reached = min(reached, true)
        return reached

    ours = [best(GpSampler(narrow, 1, seed, 50)) for seed in range(3)]
    chance = [best(RandomSampler(narrow, 1, seed, 50)) for seed in range(3)]
    assert np.mean(ours) < 0.5 * np.mean(chance)
