"""The law of samplers, for every sampler in the table, and what single ones promise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from automerge.pareto import hypervolume
from automerge.samplers import SAMPLERS, gaussian_process, gp
from automerge.samplers.base import Sampler, SamplerFactory, Told
from automerge.samplers.gaussian_process import Posterior
from automerge.space import Space
from automerge.testing import SamplerLaws
from automerge.testing.samplers import SPACE, drive, measured
from automerge.testing.spaces import branch_cost, losses, space
from automerge.trial import Params


@pytest.mark.sample(4)
class TestLaws(SamplerLaws):
    @pytest.fixture(params=list(SAMPLERS.factories))
    def make(self, request: pytest.FixtureRequest) -> SamplerFactory:
        return SAMPLERS[request.param]


def test_gp_repeats_its_refits_and_not_its_proposals() -> None:
    def told(sampler: Sampler, number: int, params: Params) -> None:
        sampler.tell(number, params, measured(SPACE, params, 2))

    first, second = (SAMPLERS["gp"](SPACE, 2, 3, 60) for _ in range(2))
    asked = []
    for number in range(45):
        asked.append(first.ask(number))
        told(first, number, asked[-1])
    for number, params in enumerate(asked):
        assert second.repeat(number, params)
        told(second, number, params)
    assert [first.ask(45), first.ask(46)] == [second.ask(45), second.ask(46)]


def test_auto_stands_for_a_sampler_of_the_table_and_behaves_like_it() -> None:
    name = SAMPLERS.resolve("auto", SPACE, 2, 20)
    assert name in SAMPLERS.factories
    auto, named = (SAMPLERS[n](SPACE, 2, 0, 20) for n in ("auto", name))
    assert drive(auto, SPACE, 20) == drive(named, SPACE, 20)
    assert SAMPLERS.resolve("tpe", SPACE, 2, 20) == "tpe"


def test_auto_descends_where_there_are_slopes_and_those_who_follow_them_are_known():
    assert SAMPLERS.resolve("auto", SPACE, 2, 20, slopes=True) == "descent"
    assert SAMPLERS.resolve("auto", SPACE, 2, 20) == "gp"
    assert SAMPLERS.resolve("gp", SPACE, 2, 20, slopes=True) == "gp"
    assert SAMPLERS.resolve("auto", SPACE, 2, 10**5, slopes=True) == "cma"
    able = [name for name in SAMPLERS.factories if SAMPLERS.may_want_slopes(name)]
    assert able == ["descent"]


def reached(name: str, space: Space, n_objectives: int, seed: int, budget: int = 100) -> float:
    sampler = SAMPLERS[name](space, n_objectives, seed, budget)
    asked = drive(sampler, space, budget, n_objectives, workers=4, seed=seed)
    rows = [losses(space, params, n_objectives) for params in asked]
    return hypervolume(rows, np.ones(n_objectives))


# Genetic samplers need some generations before they are told from chance.
@pytest.mark.sample(2)
@pytest.mark.parametrize("n_objectives", [1, 2, 3])
@pytest.mark.parametrize(
    ("name", "budget"),
    [("cma", 100), ("gp", 40), ("nsga2", 200), ("nsga3", 200), ("de", 100), ("qd", 100)],
)
def test_search_beats_chance_on_smooth_losses(name: str, budget: int, n_objectives: int) -> None:
    wide = space("linear", "task_arithmetic", "ties", sources=("a", "b", "c", "d"))
    found = [reached(name, wide, n_objectives, seed, budget) for seed in range(2)]
    chance = [reached("random", wide, n_objectives, seed, budget) for seed in range(2)]
    assert np.mean(found) > np.mean(chance)


@pytest.mark.sample(1)
@pytest.mark.parametrize("n_objectives", [1, 2, 3])
def test_map_beats_chance_where_losses_are_nearly_quadratic(n_objectives: int) -> None:
    narrow = space("task_arithmetic", leave_out=False, switches=False)
    found = [reached("map", narrow, n_objectives, seed, 50) for seed in range(4)]
    chance = [reached("random", narrow, n_objectives, seed, 50) for seed in range(4)]
    assert np.mean(found) > np.mean(chance)


def test_cma_moves_away_from_where_trials_fail() -> None:
    narrow = space("task_arithmetic", leave_out=False)
    name = next(p.name for p in narrow.parameters if "weight" in p.name)
    sampler = SAMPLERS["cma"](narrow, 1, 0, 160)
    failed = []
    for number in range(160):
        params = sampler.ask(number)
        failed.append(float(params[name]) > 0.4)
        # Losses that are equal but for a trifle: failures are the only thing to learn from.
        sampler.tell(number, params, None if failed[-1] else Told((1e-9 * (number % 7),)))
    assert np.mean(failed[-60:]) < 0.5 * np.mean(failed[:40])


def test_cma_never_gives_a_branch_up() -> None:
    # One method is much worse than the other, in every trial; it is still tried now and then.
    wide = space("linear", "slerp", leave_out=False, switches=False)
    sampler = SAMPLERS["cma"](wide, 1, 0, 100)
    late = []
    for number in range(600):
        params = sampler.ask(number)
        method = str(params[wide.method.name])
        sampler.tell(number, params, Told((1.0 if method == "slerp" else number % 7 * 1e-3,)))
        if number >= 300:
            late.append(method)
    assert 0 < late.count("slerp") < 60


def test_cma_finds_the_optimum_of_one_method_where_chance_does_not() -> None:
    narrow = space("task_arithmetic", leave_out=False, switches=False)
    (branch,) = narrow.branches
    least = branch_cost(branch)
    found, chance = (1 - reached(name, narrow, 1, 0, budget=300) for name in ("cma", "random"))
    assert found - least < 0.1 * (chance - least)


def test_gp_proposes_with_one_thread_and_gives_the_others_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More threads than free processors wait for each other: 20 times the time (measured)."""
    threads: list[int] = []

    def counted() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    def condition(*given: Any) -> Posterior:
        threads.extend(counted())
        return gaussian_process.condition(*given)

    monkeypatch.setattr(gp, "condition", condition)
    with threadpool_limits(2, "blas"):
        before = counted()
        drive(SAMPLERS["gp"](SPACE, 2, 0, 20), SPACE, 20)
        assert counted() == before
    assert set(threads) == {1}


@pytest.mark.slow
def test_gp_knows_so_many_points_at_most_the_best_among_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A search limited by time alone may have tens of thousands of trials."""
    monkeypatch.setattr(gp, "MAX_POINTS", 50)
    monkeypatch.setattr(gp, "N_OTHERS", 15)
    known: list[np.ndarray] = []
    condition = gp.condition
    monkeypatch.setattr(
        gp, "condition", lambda points, *rest: known.append(points) or condition(points, *rest)
    )
    sampler = SAMPLERS["gp"](SPACE, 1, 0, 100)
    told: list[tuple[float, np.ndarray]] = []
    for number in range(70):
        params = sampler.ask(number)
        (loss,) = losses(SPACE, params, 1)
        sampler.tell(number, params, Told((loss,)))
        told.append((loss, SPACE.position(params)))
    assert max(map(len, known)) == 50
    sampler.ask(70)
    for _, position in sorted(told, key=lambda pair: pair[0])[:35]:
        assert (known[-1] == position).all(axis=1).any()
    again = SAMPLERS["gp"](SPACE, 2, 0, 100)
    drive(again, SPACE, 60)
    other = SAMPLERS["gp"](SPACE, 2, 0, 100)
    drive(other, SPACE, 60)
    assert again.ask(999) == other.ask(999)
