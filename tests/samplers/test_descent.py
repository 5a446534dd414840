"""Descent along slopes: the surrogate's mathematics, and how far searches get with it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import optimize, stats

from automerge.arrays import Floats
from automerge.methods import METHODS
from automerge.mixture import Mixture
from automerge.pareto import hypervolume
from automerge.recipe import single, uniform_average
from automerge.samplers import SAMPLERS, gradient_process
from automerge.samplers.base import Slopes, Told
from automerge.space import Knots, Space, build_space
from automerge.space.mixtures import MixtureSettings
from automerge.testing.samplers import measured
from automerge.testing.spaces import plain_settings, space
from tests.samplers.test_beginnings import SOURCES, WIDE

D = len(WIDE.roles)


def bowl(rng: np.random.Generator, d: int) -> tuple[Floats, Floats]:
    """A positive definite matrix and an optimum."""
    root = rng.normal(size=(d, d))
    return root @ root.T / d + 0.1 * np.eye(d), rng.normal(size=d)


def test_values_and_slopes_of_a_surrogate_belong_together():
    rng = np.random.default_rng(0)
    points, slopes = rng.normal(size=(9, 5)), rng.normal(size=(9, 3))
    found = gradient_process.fit(
        points, slopes, np.array([0, 2, 4]), np.full(5, 2.0), 0.1, np.ones(9)
    )
    at, h = rng.normal(size=(4, 5)), 1e-5
    for i in range(5):
        ends = [found.value(at + by * np.eye(5)[i]) for by in (-h, h)]
        np.testing.assert_allclose((ends[1] - ends[0]) / (2 * h), found.slope(at)[:, i], atol=1e-8)


def test_a_surrogate_is_the_conditional_mean_of_the_naive_covariance():
    rng = np.random.default_rng(1)
    points, slopes = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    length, noise = 1.7, 0.05

    def kernel(x, y):
        return np.exp(-((x - y) ** 2).sum() / (2 * length**2))

    h = 1e-3

    def cross(x, y, b):
        step = h * np.eye(3)[b]
        return (kernel(x, y + step) - kernel(x, y - step)) / (2 * h)

    def both(x, a, y, b):
        step = h * np.eye(3)[a]
        return (cross(x + step, y, b) - cross(x - step, y, b)) / (2 * h)

    rows = [(i, a) for i in range(4) for a in range(3)]
    covariance = np.array(
        [[both(points[i], a, points[j], b) for j, b in rows] for i, a in rows]
    ) + (noise / length**2) * np.diag(np.repeat([1.0, 2.0, 1.0, 3.0], 3))
    at = rng.normal(size=3)
    expected = np.array([cross(at, points[j], b) for j, b in rows]) @ np.linalg.solve(
        covariance, slopes.reshape(-1)
    )
    found = gradient_process.fit(
        points, slopes, np.arange(3), np.full(3, length), noise, np.array([1.0, 2.0, 1.0, 3.0])
    )
    assert found.value(at[None])[0] == pytest.approx(expected, rel=1e-4)


def test_little_noise_is_told_from_much():
    rng = np.random.default_rng(2)
    matrix, optimum = bowl(rng, 4)
    points = rng.normal(size=(12, 4))
    exact = (points - optimum) @ matrix
    targets = [exact, exact + exact.std() * rng.normal(size=exact.shape)]
    (_, little), (_, much) = gradient_process.best_hyperparameters(
        points, targets, np.arange(4), np.ones(4), np.ones(12)
    )
    assert little < much


def test_the_likelihood_is_the_density_of_slopes_with_the_best_variance_of_the_signal():
    rng = np.random.default_rng(3)
    points, slopes = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    lengths, noise = np.array([0.7, 1.3, 2.9]), rng.uniform(0.1, 0.5, size=5)

    def covariance(variance: float) -> Floats:
        """Of slopes, with derivatives of the kernel written out; noise in units of a slope."""
        rows = [(i, a) for i in range(5) for a in range(3)]
        found = np.zeros((15, 15))
        for r, (i, a) in enumerate(rows):
            for c, (j, b) in enumerate(rows):
                d = points[i] - points[j]
                kernel = np.exp(-((d / lengths) ** 2).sum() / 2)
                inner = (a == b) / lengths[a] ** 2 - d[a] * d[b] / (lengths[a] * lengths[b]) ** 2
                found[r, c] = kernel * inner + (r == c) * noise[i] / lengths[a] ** 2
        return variance * found

    def density(variance: float) -> float:
        return float(stats.multivariate_normal(cov=covariance(variance)).logpdf(slopes.ravel()))

    best = optimize.minimize_scalar(
        lambda log: -density(np.exp(log)), bounds=(-10, 10), method="bounded"
    )
    constant = -0.5 * 15 * (1 + np.log(2 * np.pi))
    found = gradient_process.likelihood(points, slopes, np.arange(3), lengths, noise)
    assert found + constant == pytest.approx(-best.fun, abs=1e-6)


def test_a_smooth_function_is_seen_to_be_one():
    """Slopes that hardly change tell that the function reaches far, up to the longest length."""
    rng = np.random.default_rng(4)
    points = rng.normal(size=(8, 5))
    slopes = np.ones((8, 5)) + 0.01 * points
    ((length, _),) = gradient_process.best_hyperparameters(
        points, [slopes], np.arange(5), np.ones(5), np.ones(8)
    )
    assert length == max(gradient_process.LENGTHS) * np.sqrt(5)


def test_a_flat_coordinate_reaches_as_far_as_the_root_of_its_steepness_says():
    slopes = np.array([[[4.0, 1.0]], [[-4.0, 1.0]]])
    found = gradient_process.relative_lengths(slopes, np.array([0, 2]), 3)
    np.testing.assert_allclose(found, [0.5**0.5, 1.0, 2**0.5])
    lame = gradient_process.relative_lengths(np.zeros((1, 1, 2)), np.array([0, 2]), 3)
    np.testing.assert_array_equal(lame, np.ones(3))


def searched(name: str, seed: int, distort, budget: int = 36) -> tuple[float, float]:
    """Hypervolumes, in true losses, of all trials of a search and of its starts."""
    true, _ = history(name, seed, distort, budget)
    reference = [1.5, 1.5]
    return hypervolume(true, reference), hypervolume(true[:5], reference)


def history(name: str, seed: int, distort, budget: int = 36) -> tuple[list[list[float]], list[int]]:
    """Search two noisy bowls in 30 dimensions from the usual starts.

    Returns:
        True losses of all trials, and the sampler's favourites.
    """
    rng = np.random.default_rng(seed)
    average = WIDE.params(uniform_average(SOURCES))
    start = WIDE.position(average)[:D]
    optima = [start + 0.8 * WIDE.scales * rng.normal(size=D) for _ in range(2)]
    widths = [float((((start - o) / WIDE.scales) ** 2).sum()) for o in optima]

    def losses(position: Floats) -> list[float]:
        return [
            float((((position[:D] - o) / WIDE.scales) ** 2).sum()) / w
            for o, w in zip(optima, widths, strict=True)
        ]

    def slopes(position: Floats) -> tuple[Slopes, ...]:
        found = []
        for o, w in zip(optima, widths, strict=True):
            exact = 2 * (position[:D] - o) / WIDE.scales**2 / w
            noisy = distort(exact, rng)
            found.append(Slopes(0.0, dict(zip(WIDE.roles, noisy.tolist(), strict=True))))
        return tuple(found)

    sampler = SAMPLERS[name](WIDE, 2, seed, budget)
    true = []
    for number in range(budget):
        if number < 5:
            recipes = [single("base"), *map(single, SOURCES), uniform_average(SOURCES)]
            params = WIDE.params(recipes[number])
        else:
            params = sampler.ask(number)
        position = WIDE.position(params)
        true.append(losses(position))
        values = tuple(x + 0.05 * rng.normal() for x in true[-1])
        wanted = number >= 5 and sampler.wants_slopes(number) > 0
        told = Told(values, (0.05, 0.05), slopes(position) if wanted else None)
        sampler.tell(number, params, told)
    return true, list(sampler.favourites())


def noisy(exact: Floats, rng: np.random.Generator) -> Floats:
    return exact + 0.5 * exact.std() * rng.normal(size=D)


@pytest.mark.parametrize("seeds", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_slopes_lead_far_ahead_of_a_search_without(seeds):
    with_slopes = [searched("descent", seed, noisy) for seed in range(seeds)]
    without = [searched("gp", seed, noisy) for seed in range(seeds)]
    gains = [[after - before for after, before in found] for found in (with_slopes, without)]
    assert np.median(gains[0]) > 2 * np.median(gains[1])


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", ["noise", "wrong way"])
def test_slopes_that_mislead_leave_the_search_ahead_of_its_starts(kind):
    def distort(exact: Floats, rng: np.random.Generator) -> Floats:
        return -exact if kind == "wrong way" else exact.std() * rng.normal(size=D)

    gains = [
        after - before for after, before in (searched("descent", s, distort) for s in range(3))
    ]
    assert np.median(gains) > 0


@pytest.mark.slow
def test_its_favourites_are_better_compromises_than_what_scored_best():
    ranks = []
    for seed in range(4):
        true, favourites = history("descent", seed, noisy)
        means = [sum(row) for row in true]
        ranks.append(sorted(means).index(means[favourites[0]]))
    assert np.median(ranks) < len(true) / 8


def test_slopes_are_followed_with_all_sources_however_many_may_be_left_out():
    wide = space()
    sampler = SAMPLERS["descent"](wide, 2, 0, 60)
    sets = set()
    for number in range(24):
        params = sampler.ask(number)
        if sampler.wants_slopes(number):
            sets.add((wide.branch(params).method, len(wide.branch(params).models)))
        sampler.tell(number, params, measured(wide, params, 2, sampler.wants_slopes(number) > 0))
    assert len(wide.branches) > len(sets)
    assert sets == {("linear", 3), ("slerp", 2), ("ties", 3)}


def test_each_proposal_says_which_trade_off_it_is_for():
    """All alike, each goal, or any mixture of them; none where `gp` proposes."""
    sampler = SAMPLERS["descent"](WIDE, 2, 0, 60)
    rng = np.random.default_rng(0)
    said = []
    for number in range(24):
        params = sampler.ask(number)
        said.append(sampler.direction(number))
        slopes = tuple(
            Slopes(0.0, dict(zip(WIDE.roles, rng.normal(size=D).tolist(), strict=True)))
            for _ in range(2)
        )
        sampler.tell(
            number,
            params,
            Told((0.1, 0.2), (0.05, 0.05), slopes if sampler.wants_slopes(number) else None),
        )
    assert said[0] == (), "nothing is known yet"
    found = [direction for direction in said if direction]
    assert {(0.5, 0.5), (0.85, 0.15), (0.15, 0.85)} <= {tuple(np.round(d, 9)) for d in found}
    assert len(set(found)) > 3
    assert sampler.direction(999) == ()


def test_a_descent_starts_where_every_source_is_switched_on():
    """A source alone may score best, but has slopes in its own weight only."""
    droppable = space("task_arithmetic", sources=SOURCES)
    sampler = SAMPLERS["descent"](droppable, 1, 0, 60)
    recipes = [*map(single, SOURCES), uniform_average(SOURCES)]
    for number, recipe in enumerate(recipes):
        told = Told((float(recipe is recipes[-1]),), (0.0,))
        sampler.tell(number, droppable.params(recipe), told)
    params = sampler.ask(len(recipes))
    assert len(droppable.recipe(params).sources) == len(SOURCES)


def test_a_descent_starts_from_the_best_that_is_so_beyond_its_error():
    """The mean of many items is believed before a better one of few."""
    average, few = WIDE.position(WIDE.params(uniform_average(SOURCES)))[:D], []
    for loss, error in ((0.9, 0.01), (0.9, 0.5)):
        sampler = SAMPLERS["descent"](WIDE, 1, 0, 60)
        sampler.tell(0, WIDE.params(uniform_average(SOURCES)), Told((1.0,), (0.01,)))
        at = np.append(np.clip(average + 0.2, 0, 0.99), WIDE.codes[0])
        sampler.tell(1, WIDE.at(at), Told((loss,), (error,)))
        few.append(WIDE.position(sampler.ask(2))[:D])
    near = [float(np.abs(found - average).mean()) for found in few]
    assert near[0] > 0.1 > near[1]


def mixed() -> Space:
    """A space of mixtures: two of its numbers a source have slopes, which experts have none."""
    mixtures = MixtureSettings(("uniform", "random"))
    settings = plain_settings("linear", depth=Knots(2), mixture=mixtures)
    return build_space(settings, "base", SOURCES, 6, METHODS)


def followed(
    wide: Space, best: Mixture, budget: int, late: Mixture | None = None
) -> list[tuple[Mixture | None, bool]]:
    """Search for a bowl beside a cost of mixtures other than the best, of which no slope tells.

    Half-way, a trial that nobody asked for may show one to be better still, `late`.

    Returns:
        The mixture of each proposal, and whether a descent made it.
    """
    smooth = np.flatnonzero(wide.smooth)
    scales = wide.scales[smooth]
    optimum = 0.5 + 0.7 * scales * np.random.default_rng(0).normal(size=len(smooth))

    def told(params, slopes: bool) -> Told:
        off = wide.position(params)[smooth] - optimum
        made = wide.recipe(params).mixture
        cost = -0.5 if late is not None and made == late else 0.5 * (made != best)
        by_role = dict(zip((wide.roles[i] for i in smooth), 0.02 * off / scales**2, strict=True))
        loss = cost + 0.01 * float((off**2 / scales**2).sum())
        return Told((loss,), (0.01,), (Slopes(0.0, by_role),) if slopes else None)

    sampler, found = SAMPLERS["descent"](wide, 1, 0, budget), []
    average = uniform_average(SOURCES)
    for number, (_, recipe) in enumerate([("average", average), *wide.starts]):
        params = wide.params(recipe)
        sampler.tell(number, params, told(params, False))
    first = 1 + len(wide.starts)
    for number in range(first, first + budget):
        if late is not None and number == first + budget // 2:
            params = wide.params(dataclasses.replace(average, mixture=late))
            sampler.tell(10**6, params, told(params, False))
        params = sampler.ask(number)
        wanted = sampler.wants_slopes(number) > 0
        found.append((wide.recipe(params).mixture, wanted or bool(sampler.direction(number))))
        sampler.tell(number, params, told(params, wanted))
    return found


def test_a_descent_keeps_the_experts_of_the_best_and_leaves_them_to_the_process():
    wide = mixed()
    starts = [recipe.mixture for _, recipe in wide.starts]
    assert len(starts) == 3
    for best in starts:
        proposals = followed(wide, best, 24)
        descents = [mixture for mixture, descended in proposals if descended]
        assert 4 < len(proposals) - len(descents) < 16
        assert set(descents) == {best}
        others = {mixture for mixture, descended in proposals if not descended}
        assert len(others) > 3


def test_a_descent_goes_on_with_other_experts_once_these_scored_better():
    wide, budget = mixed(), 16
    best, late = wide.starts[0][1].mixture, Mixture(("a", "c"), 1, "random", (1, 4))
    descents = [own for own, descended in followed(wide, best, budget, late) if descended]
    assert set(descents) == {best, late}
    assert descents == sorted(descents, key=lambda own: own == late)
