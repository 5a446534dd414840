"""Optuna's samplers (Akiba et al. 2019) behind our contract."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from automerge.recipe import Value
from automerge.samplers.base import Sampler, Told
from automerge.space import CategoricalParameter, Parameter, Space, prior_fractions, prior_shares
from automerge.trial import Params

if TYPE_CHECKING:
    import optuna

_MakeSampler: TypeAlias = Callable[[int], Any]
"""Seed → an Optuna sampler."""


class OptunaSampler(Sampler):
    """One of Optuna's samplers over the space laid flat.

    Optuna's genetic samplers search only what every trial has: in a conditional space they would
    draw all but the method at random. So each trial has every role (a parameter's name without its
    method), used or not, and the methods share what they learn of a role. A role is the share in
    [0, 1] of its prior that lies below its value, so that what Optuna draws uniformly is drawn from
    the prior.

    Every proposal comes from a fresh sampler seeded by (seed, number); what it knows is the study
    in memory. Trials nobody asked for enter as enqueued ones.
    """

    def __init__(self, space: Space, n_objectives: int, seed: int, make: _MakeSampler) -> None:
        import optuna

        self._space = space
        self._seed = seed
        self._make = make
        self._asked: dict[int, optuna.trial.Trial] = {}
        with quiet():
            self._study = optuna.create_study(directions=["minimize"] * n_objectives)

    def ask(self, number: int) -> Params:
        """Propose parameters for trial `number`."""
        with quiet():
            return self._ask(number)

    def tell(self, number: int, params: Params | None, told: Told | None) -> None:
        """Report a trial; recipes the space cannot express teach these samplers nothing."""
        from optuna.trial import TrialState

        with quiet():
            if number not in self._asked:
                if params is None:
                    return
                self._study.enqueue_trial(_flat(self._space, params))
                self._ask(number)
            trial = self._asked.pop(number)
            if told is None or not told.is_finite:
                self._study.tell(trial, state=TrialState.FAIL)
            else:
                self._study.tell(trial, list(told.losses))

    def _ask(self, number: int) -> Params:
        entropy = np.random.SeedSequence([self._seed, number])
        self._study.sampler = self._make(int(entropy.generate_state(1)[0]))
        trial = self._asked[number] = self._study.ask()
        suggested: dict[str, Value] = {}
        for parameter in self._space.parameters:
            if isinstance(parameter, CategoricalParameter):
                name = parameter.name
                suggested[name] = trial.suggest_categorical(name, parameter.choices)
            elif parameter.role not in suggested:
                suggested[parameter.role] = trial.suggest_float(parameter.role, 0.0, 1.0)

        def choose(parameter: Parameter) -> Value:
            if isinstance(parameter, CategoricalParameter):
                return suggested[parameter.name]
            share = np.array([suggested[parameter.role]], dtype=np.float64)
            return parameter.at_fraction(float(prior_fractions(share, parameter.scale)[0]))

        return self._space.walk(choose)


def _flat(space: Space, params: Params) -> dict[str, Value]:
    """Return parameters in the flat form; the sampler fills in what they leave open."""
    flat: dict[str, Value] = {}
    for parameter in space.parameters:
        if parameter.name in params:
            value = params[parameter.name]
            if isinstance(parameter, CategoricalParameter):
                flat[parameter.name] = value
            else:
                fraction = np.array([parameter.fraction(value)])
                flat[parameter.role] = float(prior_shares(fraction, parameter.scale)[0])
    return flat


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Optuna's messages and warnings about experimental features."""
    from optuna.exceptions import ExperimentalWarning

    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        logger.setLevel(level)


def _population(budget: int) -> int:
    """Return a population size: a tenth of the budget, from 4 to 50."""
    return min(max(budget // 10, 4), 50)


def tpe(space: Space, n_objectives: int, seed: int, budget: int) -> OptunaSampler:
    """Build tree-structured Parzen estimators (Ozaki et al. 2022 for several objectives)."""
    from optuna.samplers import TPESampler

    return OptunaSampler(
        space, n_objectives, seed, lambda s: TPESampler(seed=s, constant_liar=True)
    )


def nsga2(space: Space, n_objectives: int, seed: int, budget: int) -> OptunaSampler:
    """Build NSGA-II (Deb et al. 2002)."""
    from optuna.samplers import NSGAIISampler

    size = _population(budget)
    return OptunaSampler(
        space, n_objectives, seed, lambda s: NSGAIISampler(seed=s, population_size=size)
    )


def nsga3(space: Space, n_objectives: int, seed: int, budget: int) -> OptunaSampler:
    """Build NSGA-III (Deb and Jain 2014)."""
    from optuna.samplers import NSGAIIISampler

    size = _population(budget)
    return OptunaSampler(
        space, n_objectives, seed, lambda s: NSGAIIISampler(seed=s, population_size=size)
    )
