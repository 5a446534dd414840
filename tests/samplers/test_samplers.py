"""The law of samplers, for every sampler in the table."""

from __future__ import annotations

import logging
import math
import random
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from automerge.pareto import hypervolume
from automerge.recipe import single, uniform_average
from automerge.samplers import SAMPLERS, gaussian_process, gp
from automerge.samplers.base import Sampler
from automerge.samplers.gaussian_process import Posterior
from automerge.space import Space
from automerge.trial import Params
from tests.samplers.spaces import branch_cost, losses, space

SPACE = space()
EVERY = list(SAMPLERS.factories)
TRIALS = 24
"""Enough to leave every sampler's random start behind."""


def drive(
    sampler: Sampler,
    space: Space,
    trials: int,
    n_objectives: int = 2,
    workers: int = 3,
    seed: int = 0,
) -> list[Params]:
    """Keep some asks outstanding, finish a random one, and let every seventh trial fail."""
    rng = random.Random(seed)
    asked: list[Params] = []
    pending: list[int] = []
    while len(asked) < trials or pending:
        while len(asked) < trials and len(pending) < workers:
            pending.append(len(asked))
            asked.append(sampler.ask(len(asked)))
        number = pending.pop(rng.randrange(len(pending)))
        failed = number % 7 == 6
        told = None if failed else losses(space, asked[number], n_objectives)
        sampler.tell(number, asked[number], told)
    return asked


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("n_objectives", [1, 2, 3])
def test_every_proposal_is_valid_and_names_active_parameters_only(
    name: str, n_objectives: int
) -> None:
    sampler = SAMPLERS[name](SPACE, n_objectives, 0, TRIALS)
    for params in drive(sampler, SPACE, TRIALS, n_objectives):
        assert SPACE.active(params) == params
        assert SPACE.params(SPACE.recipe(params)) == params


@pytest.mark.parametrize("name", EVERY)
def test_the_same_calls_bring_the_same_proposals_whatever_global_generators_do(name: str) -> None:
    def propose(disturb: int | None) -> list[Params]:
        sampler = SAMPLERS[name](SPACE, 2, 3, TRIALS)
        asked = []
        for number in range(TRIALS):
            if disturb is not None:
                np.random.seed(disturb)
                random.seed(disturb)
            asked.append(sampler.ask(number))
            sampler.tell(number, asked[-1], losses(SPACE, asked[-1], 2))
        return asked

    assert propose(None) == propose(1) == propose(2)


@pytest.mark.parametrize("name", EVERY)
def test_global_generators_are_left_alone(name: str) -> None:
    import torch

    def states() -> list[str]:
        return [repr(random.getstate()), repr(np.random.get_state()), repr(torch.get_rng_state())]

    before = states()
    drive(SAMPLERS[name](SPACE, 2, 0, TRIALS), SPACE, TRIALS)
    assert states() == before


@pytest.mark.parametrize("name", EVERY)
def test_another_seed_brings_other_proposals(name: str) -> None:
    first, second = (
        drive(SAMPLERS[name](SPACE, 2, seed, 12), SPACE, 12, seed=0) for seed in (0, 1)
    )
    assert first != second


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("budget", [1, 64])
def test_64_asks_may_be_outstanding_and_told_in_any_order(name: str, budget: int) -> None:
    sampler = SAMPLERS[name](SPACE, 2, 0, budget)
    for number, source in enumerate(SPACE.sources, start=1000):  # so that no start is random
        params = SPACE.params(single(source))
        sampler.tell(number, params, losses(SPACE, params, 2))
    asked = {number: sampler.ask(number) for number in range(64)}
    for number in random.Random(0).sample(range(64), 64):
        sampler.tell(number, asked[number], losses(SPACE, asked[number], 2))
    assert SPACE.active(sampler.ask(64))


@pytest.mark.parametrize("name", EVERY)
def test_a_sampler_goes_on_when_every_trial_fails(name: str) -> None:
    sampler = SAMPLERS[name](SPACE, 2, 0, TRIALS)
    asked = []
    for number in range(TRIALS):
        asked.append(sampler.ask(number))
        sampler.tell(number, asked[-1], None if number % 2 else [math.nan, 0.0])
    assert len({repr(params) for params in asked}) > len(asked) // 2


@pytest.mark.parametrize("name", EVERY)
def test_a_sampler_bears_equal_losses_and_told_duplicates(name: str) -> None:
    sampler = SAMPLERS[name](SPACE, 2, 0, TRIALS)
    same = SPACE.params(uniform_average(SPACE.sources))
    for number in range(TRIALS):
        params = sampler.ask(number)
        sampler.tell(number, params, [0.5, 0.5])
        sampler.tell(1000 + number, same, [0.5, 0.5])
        assert SPACE.active(params)


@pytest.mark.parametrize("name", EVERY)
def test_trials_nobody_asked_for_may_be_told(name: str) -> None:
    sampler = SAMPLERS[name](SPACE, 2, 0, 12)
    sampler.tell(0, None, [1.0, 0.0])
    sampler.tell(1, SPACE.params(single("a")), [0.2, 0.9])
    sampler.tell(2, SPACE.params(uniform_average(SPACE.sources)), [0.4, 0.4])
    sampler.tell(3, SPACE.params(single("b")), None)
    for number in range(4, 16):
        params = sampler.ask(number)
        sampler.tell(number, params, losses(SPACE, params, 2))
        assert SPACE.active(params)


CALLS = st.lists(st.integers(0, 5), min_size=10, max_size=40)


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=5, deadline=None)
@given(calls=CALLS, cut=st.integers(0, 40), n_objectives=st.integers(1, 3))
def test_a_replayed_sampler_goes_on_as_the_first_would_have(
    name: str, calls: list[int], cut: int, n_objectives: int
) -> None:
    """Calls are asks (0 to 2) or tells of the pending trial of that rank, some of them failures."""

    def perform(sampler: Sampler, log: list[tuple[object, ...]], calls: list[int]) -> None:
        for call in calls:
            asked = {entry[1]: entry[2] for entry in log if entry[0] == "ask"}
            told = {entry[1] for entry in log if entry[0] == "tell"}
            pending = [number for number in asked if number not in told]
            if call <= 2 or not pending:
                number = len(asked)
                log.append(("ask", number, sampler.ask(number)))
            else:
                number = pending[call % len(pending)]
                failed = number % 5 == 4
                values = None if failed else losses(SPACE, asked[number], n_objectives)
                sampler.tell(number, asked[number], values)
                log.append(("tell", number, values))

    def fresh() -> Sampler:
        return SAMPLERS[name](SPACE, n_objectives, 7, 30)

    whole: list[tuple[object, ...]] = []
    perform(fresh(), whole, calls)
    log: list[tuple[object, ...]] = []
    perform(fresh(), log, calls[:cut])
    for repeated in (False, True):
        resumed, made = fresh(), list(log)
        for kind, number, value in log:
            if kind == "tell":
                params = next(entry[2] for entry in log if entry[:2] == ("ask", number))
                resumed.tell(number, params, value)
            elif repeated:
                assert resumed.repeat(number, value)
            else:
                assert resumed.ask(number) == value
        perform(resumed, made, calls[cut:])
        assert made == whole


def test_gp_repeats_its_refits_and_not_its_proposals() -> None:
    def told(sampler: Sampler, number: int, params: Params) -> None:
        sampler.tell(number, params, losses(SPACE, params, 2))

    first, second = (SAMPLERS["gp"](SPACE, 2, 3, 60) for _ in range(2))
    asked = []
    for number in range(45):
        asked.append(first.ask(number))
        told(first, number, asked[-1])
    for number, params in enumerate(asked):
        assert second.repeat(number, params)
        told(second, number, params)
    assert [first.ask(45), first.ask(46)] == [second.ask(45), second.ask(46)]


@pytest.mark.parametrize("name", EVERY)
def test_a_space_of_one_parameter_can_be_searched(name: str) -> None:
    narrow = space("slerp", sources=("a",))
    sampler = SAMPLERS[name](narrow, 2, 0, 30)
    assert len({repr(p) for p in drive(sampler, narrow, 30)}) > 10


@pytest.mark.parametrize("name", EVERY)
def test_nothing_is_printed_warned_or_logged(
    name: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("optuna")
    level, handlers = logger.level, list(logger.handlers)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drive(SAMPLERS[name](SPACE, 2, 0, TRIALS), SPACE, TRIALS)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert (logger.level, logger.handlers) == (level, handlers)


def test_auto_stands_for_a_sampler_of_the_table_and_behaves_like_it() -> None:
    name = SAMPLERS.resolve("auto", SPACE, 2, 20)
    assert name in SAMPLERS.factories
    auto, named = (SAMPLERS[n](SPACE, 2, 0, 20) for n in ("auto", name))
    assert drive(auto, SPACE, 20) == drive(named, SPACE, 20)
    assert SAMPLERS.resolve("tpe", SPACE, 2, 20) == "tpe"


def reached(name: str, space: Space, n_objectives: int, seed: int, budget: int = 100) -> float:
    sampler = SAMPLERS[name](space, n_objectives, seed, budget)
    asked = drive(sampler, space, budget, n_objectives, workers=4, seed=seed)
    rows = [losses(space, params, n_objectives) for params in asked]
    return hypervolume(rows, np.ones(n_objectives))


@pytest.mark.parametrize(
    ("name", "n_objectives"),
    [
        pytest.param(name, n, marks=[pytest.mark.slow] if name == "gp" and n > 1 else [])
        for name in ("cma", "gp", "nsga2", "nsga3")
        for n in (1, 2, 3)
    ],
)
def test_search_beats_chance_on_smooth_losses(name: str, n_objectives: int) -> None:
    wide = space("linear", "task_arithmetic", "ties", sources=("a", "b", "c", "d"))
    found = [reached(name, wide, n_objectives, seed) for seed in range(4)]
    chance = [reached("random", wide, n_objectives, seed) for seed in range(4)]
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
        sampler.tell(number, params, None if failed[-1] else [1e-9 * (number % 7)])
    assert np.mean(failed[-60:]) < 0.5 * np.mean(failed[:40])


def test_cma_never_gives_a_branch_up() -> None:
    # One method is much worse than the other, in every trial; it is still tried now and then.
    wide = space("linear", "slerp", leave_out=False, switches=False)
    sampler = SAMPLERS["cma"](wide, 1, 0, 100)
    late = []
    for number in range(600):
        params = sampler.ask(number)
        method = str(params[wide.method.name])
        sampler.tell(number, params, [1.0 if method == "slerp" else number % 7 * 1e-3])
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


def test_gp_knows_so_many_points_at_most_the_best_among_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A search limited by time alone may have tens of thousands of trials."""
    monkeypatch.setattr(gp, "CONDITIONED", 50)
    monkeypatch.setattr(gp, "ELSEWHERE", 15)
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
        sampler.tell(number, params, [loss])
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
