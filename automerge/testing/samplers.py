"""The law of samplers, as tests that anybody can run over their own sampler.

from automerge.testing import SamplerLaws

class TestMine(SamplerLaws):
    @pytest.fixture
    def make(self):
        return MySampler    # a class or function of (space, n_objectives, seed, budget)
"""

from __future__ import annotations

import logging
import math
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from automerge.recipe import single, uniform_average
from automerge.samplers.base import Members, Sampler, SamplerFactory, Slopes, Told
from automerge.space import Space
from automerge.testing.spaces import losses, slopes, space
from automerge.trial import Params

SPACE = space()
TRIALS = 24
"""Enough to leave every sampler's random start behind."""


def measured(space: Space, params: Params, n_objectives: int, with_slopes: bool = False) -> Told:
    """Return what a sampler is told of parameters: smooth losses, errors that vary, slopes."""
    values = losses(space, params, n_objectives)
    errors = tuple(0.01 + 0.05 * value for value in values)
    if not with_slopes:
        return Told(tuple(values), errors)
    rows = slopes(space, params, n_objectives)
    found = (Slopes(value, row) for value, row in zip(values, rows, strict=True))
    return Told(tuple(values), errors, tuple(found))


def of_group(space: Space, params: Params, worst: bool, with_slopes: bool = False) -> Told:
    """Return what a sampler is told where the first of two goals is a group of two others."""
    found = measured(space, params, 3, with_slopes)
    losses, errors, slopes = found.losses, found.errors or (), found.slopes
    members = Members(losses[:2], errors[:2], worst, slopes and slopes[:2])
    loss = max(losses[:2]) if worst else sum(losses[:2]) / 2
    return Told(
        (loss, losses[2]),
        (max(errors[:2]), errors[2]),
        slopes and (None, slopes[2]),
        members=(members, None),
    )


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
            _check_direction(sampler.direction(len(asked) - 1), n_objectives)
        number = pending.pop(rng.randrange(len(pending)))
        failed = number % 7 == 6
        wanted = sampler.wants_slopes(number) > 0
        told = None if failed else measured(space, asked[number], n_objectives, wanted)
        sampler.tell(number, asked[number], told)
    return asked


def _check_direction(direction: tuple[float, ...], n_objectives: int) -> None:
    """A trade-off has a weight for each goal, and the weights sum to 1."""
    if direction:
        assert len(direction) == n_objectives
        assert min(direction) >= 0
        assert abs(sum(direction) - 1) < 1e-9


@dataclass
class Log:
    """The calls to a sampler in order: proposals by number, and what was told."""

    asked: dict[int, Params] = field(default_factory=dict)
    told: dict[int, Told | None] = field(default_factory=dict)
    order: list[tuple[str, int]] = field(default_factory=list)

    def copy(self) -> Log:
        return Log(dict(self.asked), dict(self.told), list(self.order))

    def perform(self, sampler: Sampler, calls: Sequence[int], n_objectives: int) -> None:
        """Ask (calls 0 to 2), or tell of the pending trial of a rank, some of them failures."""
        for call in calls:
            pending = [number for number in self.asked if number not in self.told]
            if call <= 2 or not pending:
                number = len(self.asked)
                self.asked[number] = sampler.ask(number)
                self.order.append(("ask", number))
                continue
            number = pending[call % len(pending)]
            failed = number % 5 == 4
            wanted = sampler.wants_slopes(number) > 0
            values = None if failed else measured(SPACE, self.asked[number], n_objectives, wanted)
            sampler.tell(number, self.asked[number], values)
            self.told[number] = values
            self.order.append(("tell", number))

    def replay(self, sampler: Sampler, repeated: bool) -> None:
        """Make the same calls to a new sampler, which must propose the same."""
        for kind, number in self.order:
            if kind == "tell":
                sampler.tell(number, self.asked[number], self.told[number])
            elif repeated:
                assert sampler.repeat(number, self.asked[number])
            else:
                assert sampler.ask(number) == self.asked[number]


QUALITIES = ("no numbers", "noise", "scaled", "half", "missing")
"""What may be wrong with slopes, the worst first."""


def distorted(params: Params, kind: str, rng: np.random.Generator) -> Told:
    """Return what is told of parameters, with slopes that are not what they should be."""
    if kind == "missing":
        return measured(SPACE, params, 2)
    told = measured(SPACE, params, 2, with_slopes=True)
    assert told.slopes is not None
    if kind == "half":
        return replace(told, slopes=(told.slopes[0], None))

    def change(slope: float) -> float:
        if kind == "noise":
            return float(rng.normal())
        return 1000 * slope if kind == "scaled" else math.nan

    found = (
        None
        if slopes is None
        else Slopes(slopes.loss, {role: change(slope) for role, slope in slopes.by_role.items()})
        for slopes in told.slopes
    )
    return replace(told, slopes=tuple(found))


class SamplerLaws:
    """Every law of `automerge.samplers.base.Sampler`.

    The fixture `make` is a `SamplerFactory`.
    """

    @pytest.mark.parametrize("n_objectives", [1, 2, 3])
    def test_every_proposal_is_valid_and_names_active_parameters_only(
        self, make: SamplerFactory, n_objectives: int
    ) -> None:
        sampler = make(SPACE, n_objectives, 0, TRIALS)
        for params in drive(sampler, SPACE, TRIALS, n_objectives):
            assert SPACE.active(params) == params
            assert SPACE.params(SPACE.recipe(params)) is not None

    def test_the_same_calls_bring_the_same_proposals_whatever_global_generators_do(
        self, make: SamplerFactory
    ) -> None:
        def propose(disturb: int | None) -> list[Params]:
            sampler = make(SPACE, 2, 3, TRIALS)
            asked = []
            for number in range(TRIALS):
                if disturb is not None:
                    np.random.seed(disturb)
                    random.seed(disturb)
                asked.append(sampler.ask(number))
                sampler.tell(number, asked[-1], measured(SPACE, asked[-1], 2))
            return asked

        assert propose(None) == propose(1)

    def test_global_generators_are_left_alone(self, make: SamplerFactory) -> None:
        import torch

        def states() -> list[str]:
            return [
                repr(random.getstate()),
                repr(np.random.get_state()),
                repr(torch.get_rng_state()),
            ]

        before = states()
        drive(make(SPACE, 2, 0, TRIALS), SPACE, TRIALS)
        assert states() == before

    def test_another_seed_brings_other_proposals(self, make: SamplerFactory) -> None:
        first, second = (drive(make(SPACE, 2, seed, 12), SPACE, 12, seed=0) for seed in (0, 1))
        assert first != second

    @pytest.mark.parametrize(("budget", "known"), [(64, SPACE.sources), (1, ())])
    def test_64_asks_may_be_outstanding_and_told_in_any_order(
        self, make: SamplerFactory, budget: int, known: tuple[str, ...]
    ) -> None:
        sampler = make(SPACE, 2, 0, budget)
        for number, source in enumerate(known, start=1000):  # so that no start is random
            params = SPACE.params(single(source))
            assert params is not None
            sampler.tell(number, params, measured(SPACE, params, 2))
        asked = {number: sampler.ask(number) for number in range(64)}
        assert len({repr(params) for params in asked.values()}) > 48
        for number in random.Random(0).sample(range(64), 64):
            sampler.tell(number, asked[number], measured(SPACE, asked[number], 2))
        assert SPACE.active(sampler.ask(64))

    def test_a_sampler_goes_on_when_every_trial_fails(self, make: SamplerFactory) -> None:
        sampler = make(SPACE, 2, 0, TRIALS)
        asked = []
        for number in range(TRIALS):
            asked.append(sampler.ask(number))
            sampler.tell(number, asked[-1], None if number % 2 else Told((math.nan, 0.0)))
        assert len({repr(params) for params in asked}) > len(asked) // 2

    def test_a_sampler_bears_equal_losses_and_told_duplicates(self, make: SamplerFactory) -> None:
        sampler = make(SPACE, 2, 0, TRIALS)
        same = SPACE.params(uniform_average(SPACE.sources))
        for number in range(TRIALS):
            params = sampler.ask(number)
            sampler.tell(number, params, Told((0.5, 0.5), (0.0, 0.0)))
            sampler.tell(1000 + number, same, Told((0.5, 0.5), (0.0, 0.0)))
            assert SPACE.active(params)

    def test_from_a_start_that_is_already_optimal_other_points_are_proposed(
        self, make: SamplerFactory
    ) -> None:
        sampler = make(SPACE, 2, 0, TRIALS)
        best = SPACE.params(uniform_average(SPACE.sources))
        assert best is not None
        at = SPACE.position(best)
        sampler.tell(1000, best, Told((0.0, 0.0), (0.01, 0.01)))
        asked = []
        for number in range(TRIALS):
            asked.append(sampler.ask(number))
            loss = float(((SPACE.position(asked[-1]) - at) ** 2).mean())
            sampler.tell(number, asked[-1], Told((loss, 2 * loss), (0.01, 0.01)))
        others = {repr(params) for params in asked if params != best}
        assert len(others) > TRIALS // 2

    def test_errors_that_are_unknown_or_no_numbers_are_borne(self, make: SamplerFactory) -> None:
        sampler = make(SPACE, 2, 0, TRIALS)
        errors = (None, (math.nan, 0.01), (0.0, 0.0), (math.inf, math.nan))
        for number in range(TRIALS):
            params = sampler.ask(number)
            values = tuple(losses(SPACE, params, 2))
            sampler.tell(number, params, Told(values, errors[number % len(errors)]))
            assert SPACE.active(params)

    def test_slopes_of_any_quality_are_borne(self, make: SamplerFactory) -> None:
        rng = np.random.default_rng(5)

        def propose(kind: str, told: list[Told] | None) -> tuple[list[Params], list[Told], bool]:
            sampler = make(SPACE, 2, 0, TRIALS)
            asked, heard, wanted = [], [], False
            for number in range(TRIALS):
                asked.append(sampler.ask(number))
                wanted |= sampler.wants_slopes(number) > 0
                heard.append(told[number] if told else distorted(asked[-1], kind, rng))
                sampler.tell(number, asked[-1], heard[-1])
                assert SPACE.active(asked[-1])
            return asked, heard, wanted

        for kind in QUALITIES:
            asked, told, wanted = propose(kind, None)
            assert len({repr(params) for params in asked}) > TRIALS // 2, kind
            assert propose(kind, told)[0] == asked, kind
            if not wanted:  # The worst slopes were nothing to it, and it never gets any.
                break

    @pytest.mark.parametrize("worst", [False, True])
    def test_a_goal_may_be_a_group(self, make: SamplerFactory, worst: bool) -> None:
        def propose() -> list[Params]:
            sampler = make(SPACE, 2, 0, TRIALS)
            asked = []
            for number in range(TRIALS):
                asked.append(sampler.ask(number))
                wanted = sampler.wants_slopes(number) > 0
                sampler.tell(number, asked[-1], of_group(SPACE, asked[-1], worst, wanted))
                assert SPACE.active(asked[-1])
            return asked

        asked = propose()
        assert len({repr(params) for params in asked}) > TRIALS // 2
        assert propose() == asked

    def test_trials_nobody_asked_for_may_be_told(self, make: SamplerFactory) -> None:
        sampler = make(SPACE, 2, 0, 12)
        sampler.tell(0, None, Told((1.0, 0.0)))
        sampler.tell(1, SPACE.params(single("a")), Told((0.2, 0.9)))
        sampler.tell(2, SPACE.params(uniform_average(SPACE.sources)), Told((0.4, 0.4)))
        sampler.tell(3, SPACE.params(single("b")), None)
        for number in range(4, 16):
            params = sampler.ask(number)
            sampler.tell(number, params, measured(SPACE, params, 2))
            assert SPACE.active(params)

    @pytest.mark.parametrize("n_objectives", [1, 2, 3])
    def test_a_replayed_sampler_goes_on_as_the_first_would_have(
        self, make: SamplerFactory, n_objectives: int
    ) -> None:
        rng = random.Random(n_objectives)
        calls = [rng.randrange(6) for _ in range(rng.randint(24, 40))]
        cut = rng.randint(len(calls) // 4, len(calls) - 8)

        def fresh() -> Sampler:
            return make(SPACE, n_objectives, 7, 30)

        whole = Log()
        whole.perform(fresh(), calls, n_objectives)
        log = Log()
        log.perform(fresh(), calls[:cut], n_objectives)
        for repeated in (False, True):
            resumed, made = fresh(), log.copy()
            log.replay(resumed, repeated)
            made.perform(resumed, calls[cut:], n_objectives)
            assert made == whole

    def test_a_space_of_one_parameter_can_be_searched(self, make: SamplerFactory) -> None:
        narrow = space("slerp", sources=("a",))
        sampler = make(narrow, 2, 0, 30)
        assert len({repr(p) for p in drive(sampler, narrow, 30)}) > 10

    def test_nothing_is_printed_warned_or_logged(
        self,
        make: SamplerFactory,
        capfd: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        logger = logging.getLogger("optuna")
        level, handlers = logger.level, list(logger.handlers)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            drive(make(SPACE, 2, 0, TRIALS), SPACE, TRIALS)
        assert capfd.readouterr() == ("", "")
        assert not caplog.records
        assert (logger.level, logger.handlers) == (level, handlers)
