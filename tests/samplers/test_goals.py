"""Goals made of parts: members on the scale of their values, and searches that need balance."""

from __future__ import annotations

import math

import numpy as np
import pytest

from automerge.arrays import Floats
from automerge.recipe import single, uniform_average
from automerge.samplers import SAMPLERS
from automerge.samplers.base import Members, Slopes, Told
from automerge.samplers.goals import (
    GoalModel,
    Kind,
    Scale,
    Shape,
    calibrated,
    combined,
    near,
    part_losses,
    part_slopes,
    shape_of,
    shares,
)
from automerge.samplers.gradient_process import fit
from tests.samplers.test_beginnings import SOURCES, WIDE

D = len(WIDE.roles)
SHAPE = Shape((("single", slice(0, 1)), ("mean", slice(1, 3)), ("worst", slice(3, 6))))


def model(seed: int) -> GoalModel:
    rng = np.random.default_rng(seed)
    points, smooth = rng.normal(size=(7, 4)), np.arange(4)
    surrogates = [
        fit(points, rng.normal(size=(7, 4)), smooth, np.full(4, 2.0), 0.1, np.ones(7))
        for _ in range(6)
    ]
    scale = Scale(
        np.array([0.0, 1.0, -1.0, 0.3, 0.2, 0.1]),
        np.array([1.0, 2.0, 0.5, 0.1, 0.3, 0.2]),
        np.array([1.0, 1.0, 0.2]),
    )
    return GoalModel(SHAPE, surrogates, scale)


def test_a_mean_is_the_mean_of_its_parts_and_the_worst_of_them_has_a_rounded_edge() -> None:
    found, at = model(0), np.random.default_rng(1).normal(size=(5, 4))
    raw = np.stack([surrogate.value(at) for surrogate in found.surrogates], axis=1)
    parts = found.scale.offsets + found.scale.factors * raw
    values = found.values(at)
    np.testing.assert_allclose(values[:, 0], raw[:, 0])
    np.testing.assert_allclose(values[:, 1], (parts[:, 1] + parts[:, 2]) / 2)
    naive = [0.2 * math.log(sum(math.exp(v / 0.2) for v in row)) for row in parts[:, 3:].tolist()]
    np.testing.assert_allclose(values[:, 2], naive)
    largest = parts[:, 3:].max(axis=1)
    assert (values[:, 2] >= largest).all()
    assert (values[:, 2] <= largest + 0.2 * math.log(3)).all()


def test_values_slopes_and_shares_belong_together() -> None:
    found, rng, h = model(2), np.random.default_rng(3), 1e-5
    at, weights = rng.normal(size=4), np.array([0.5, 0.2, 0.3])
    value, slope = found.mixture(at, weights)
    assert value == pytest.approx(found.values(at[None])[0] @ weights)
    ends = [[found.mixture(at + by * row, weights)[0] for by in (-h, h)] for row in np.eye(4)]
    expected = [(above - below) / (2 * h) for below, above in ends]
    np.testing.assert_allclose(slope, expected, atol=1e-8)


@pytest.mark.parametrize("kind", ["single", "mean", "worst"])
def test_shares_are_the_differences_of_what_is_combined(kind: Kind) -> None:
    parts, h = np.random.default_rng(4).normal(size=(3, 1 if kind == "single" else 4)), 1e-6
    found = shares(kind, parts, 0.7)
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    for i, step in enumerate(h * np.eye(parts.shape[1])):
        above, below = combined(kind, parts + step, 0.7), combined(kind, parts - step, 0.7)
        np.testing.assert_allclose(found[:, i], (above - below) / (2 * h), atol=1e-8)


def test_what_is_told_of_groups_and_other_goals_is_laid_out_in_parts() -> None:
    slopes = [Slopes(float(i), {"x": float(i)}) for i in range(3)]
    group = Members((0.1, math.nan), (0.01, math.nan), True, (slopes[1], None))
    told = Told((0.5, 0.2), (0.05, 0.02), (slopes[0], None), members=(None, group))
    assert shape_of(told).goals == (("single", slice(0, 1)), ("worst", slice(1, 3)))
    assert part_slopes(told) == (slopes[0], slopes[1], None)
    np.testing.assert_array_equal(
        part_losses(told), [(0.5, 0.05), (0.1, 0.01), (math.nan, math.nan)]
    )
    plain = Told((0.5, 0.2))
    assert shape_of(plain).n_parts == 2
    assert part_slopes(plain) == (None, None)


def test_members_are_brought_to_the_scale_of_their_values() -> None:
    """Surrogates in units of their own and up to a constant, values with errors."""
    rng = np.random.default_rng(5)
    raw = rng.normal(size=(40, 3)) * [1.0, 10.0, 0.1]
    factors, offsets = np.array([0.3, 0.02, 4.0]), np.array([0.5, 0.6, 0.4])
    measured = np.full((40, 3, 2), 0.02)
    measured[:, :, 0] = offsets + factors * raw + 0.02 * rng.normal(size=(40, 3))
    measured[7, 1, 0] = math.nan  # not measured
    shape = Shape((("worst", slice(0, 3)),))
    found = calibrated(shape, raw, measured, np.ones(3))
    # standard errors are 0.02 / √40 of a level, and that over the spread of a factor
    np.testing.assert_allclose(found.offsets, offsets, atol=4 * 0.02 / math.sqrt(40))
    np.testing.assert_allclose(found.factors * [1, 10, 0.1], factors * [1, 10, 0.1], atol=0.015)
    span = float(np.nanmax(measured[:, :, 0]) - np.nanmin(measured[:, :, 0]))
    assert found.widths[0] == pytest.approx(max(0.02 / math.sqrt(39), 0.01 * span), rel=0.2)
    single = calibrated(Shape((("single", slice(0, 1)),)), raw[:, :1], measured[:, :1], np.ones(1))
    assert (single.offsets[0], single.factors[0]) == (0.0, 1.0)


def test_few_values_leave_members_equally_steep_and_misleading_ones_a_little() -> None:
    shape = Shape((("mean", slice(0, 2)),))
    few = np.array([[[0.2, 0.01], [0.6, 0.01]]])
    found = calibrated(shape, np.zeros((1, 2)), few, np.array([2.0, 50.0]))
    np.testing.assert_allclose(found.offsets, [0.2, 0.6])
    assert found.factors[0] * 2.0 == pytest.approx(found.factors[1] * 50.0)
    raw = np.linspace(-1, 1, 30)[:, None] * [1.0, 1.0]
    opposite = np.stack([np.stack([raw[:, 0], -raw[:, 1]], 1), np.full((30, 2), 0.01)], 2)
    factors = calibrated(shape, raw, opposite, np.ones(2)).factors
    assert factors[0] == pytest.approx(1.0, abs=0.01)
    assert 0 < factors[1] == pytest.approx(0.1, abs=0.01)


def test_slopes_are_believed_within_reach_unless_that_leaves_too_little() -> None:
    distances = np.array([0.1, 0.5, 2.0])
    assert near(distances, 1.0, 2).tolist() == [True, True, False]
    assert near(distances, 1.0, 3).all()


def weakest(name: str, seed: int, told_members: bool = True, budget: int = 30) -> float:
    """Search for the worst of two bowls in 27 dimensions, of which one is steeper and in another
    unit; return the least true worst of what was measured on all items."""
    rng = np.random.default_rng(seed)
    average = WIDE.params(uniform_average(SOURCES))
    start = WIDE.position(average)[:D]
    optima = [start + 0.8 * WIDE.scales * rng.normal(size=D) for _ in range(2)]
    widths = [float((((start - o) / WIDE.scales) ** 2).sum()) for o in optima]
    units, levels = (30.0, 0.2), (0.0, 0.3)

    def members(position: Floats) -> list[float]:
        return [
            level + float((((position[:D] - o) / WIDE.scales) ** 2).sum()) / w
            for o, w, level in zip(optima, widths, levels, strict=True)
        ]

    def slopes(position: Floats) -> tuple[Slopes, ...]:
        found = []
        for o, w, unit in zip(optima, widths, units, strict=True):
            exact = unit * 2 * (position[:D] - o) / WIDE.scales**2 / w
            noisy = exact + 0.3 * exact.std() * rng.normal(size=D)
            found.append(Slopes(0.0, dict(zip(WIDE.roles, noisy.tolist(), strict=True))))
        return tuple(found)

    sampler = SAMPLERS[name](WIDE, 1, seed, budget)
    true = []
    for number in range(budget):
        if number < 5:
            recipes = [single("base"), *map(single, SOURCES), uniform_average(SOURCES)]
            params = WIDE.params(recipes[number])
        else:
            params = sampler.ask(number)
        position = WIDE.position(params)
        own = members(position)
        true.append(max(own))
        values = tuple(x + 0.05 * rng.normal() for x in own)
        wanted = number >= 5 and sampler.wants_slopes(number) > 0
        group = Members(values, (0.05, 0.05), told_members, slopes(position) if wanted else None)
        sampler.tell(number, params, Told((max(values),), (0.05,), members=(group,)))
    return min(true)


@pytest.mark.slow
def test_a_search_for_the_worst_member_finds_the_balance() -> None:
    """Beside a search without slopes, and one that is told to lower the mean."""
    found, without, mean = (
        [weakest(name, seed, worst) for seed in range(3)]
        for name, worst in (("descent", True), ("gp", True), ("descent", False))
    )
    assert np.median(found) < np.median(mean)
    assert np.median(found) < np.median(without) - 0.1
