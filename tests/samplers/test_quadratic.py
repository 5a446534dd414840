"""The surrogates of `map` against least squares and against fits without each point."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
import pytest

from automerge.samplers import SAMPLERS, quadratic
from automerge.samplers.base import Told
from automerge.samplers.map import MapSampler
from automerge.testing.spaces import space

RNG = np.random.default_rng(2)
INPUTS = RNG.normal(size=(40, 3))
VALUES = 1 + INPUTS @ [1.0, -2.0, 0.5] + INPUTS[:, 0] * INPUTS[:, 1] - INPUTS[:, 2] ** 2


def monomials(points: np.ndarray) -> np.ndarray:
    """All products of at most two coordinates."""
    extended = np.hstack([np.ones((len(points), 1)), points])
    pairs = combinations_with_replacement(range(extended.shape[1]), 2)
    return np.column_stack([extended[:, i] * extended[:, j] for i, j in pairs])


def test_an_exact_quadratic_is_found_as_least_squares_finds_it() -> None:
    found = quadratic.fit(INPUTS, VALUES)
    assert found.quality > 0.999
    new = RNG.normal(size=(20, 3))
    coefficients, *_ = np.linalg.lstsq(monomials(INPUTS), VALUES, rcond=None)
    np.testing.assert_allclose(found(new), monomials(new) @ coefficients, atol=0.1)


def test_quality_is_that_of_predicting_each_point_from_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quadratic, "CURVATURES", (1.0,))
    monkeypatch.setattr(quadratic, "NOISES", (0.1,))
    values = VALUES + RNG.normal(size=40)
    values -= values.mean()
    found = quadratic.fit(INPUTS, values)
    inner = INPUTS @ INPUTS.T
    covariance = quadratic.CONSTANT + inner + inner**2
    noisy = covariance + 0.1 * np.trace(covariance) / 40 * np.eye(40)
    missed = []
    for i in range(40):
        others = np.arange(40) != i
        weights = np.linalg.solve(noisy[np.ix_(others, others)], values[others])
        missed.append(values[i] - covariance[i, others] @ weights)
    assert found.quality == pytest.approx(1 - np.square(missed).sum() / np.square(values).sum())


def test_what_noise_alone_made_is_not_called_predictable() -> None:
    assert quadratic.fit(INPUTS, RNG.normal(size=40)).quality < 0.3


def test_points_with_large_errors_count_for_little() -> None:
    values, errors = VALUES.copy(), np.full(40, 0.1)
    values[:4] += 30
    errors[:4] = 30
    new = RNG.normal(size=(20, 3))
    true = monomials(new) @ np.linalg.lstsq(monomials(INPUTS), VALUES, rcond=None)[0]
    told, untold = (quadratic.fit(INPUTS, values, e)(new) for e in (errors, None))
    assert np.abs(told - true).mean() < 0.2 * np.abs(untold - true).mean()


def test_map_remarks_on_the_quality_of_its_surrogates() -> None:
    narrow = space("task_arithmetic", leave_out=False, switches=False)
    sampler = SAMPLERS["map"](narrow, 2, 0, 40)
    assert isinstance(sampler, MapSampler)
    assert not sampler.remarks()
    for number in range(40):
        params = sampler.ask(number)
        shares = narrow.position(params)
        sampler.tell(number, params, Told(tuple(((shares - a) ** 2).sum() for a in (0.3, 0.6))))
    (remark,) = sampler.remarks()
    assert "R² = 0.9" in remark or "R² = 1.0" in remark
