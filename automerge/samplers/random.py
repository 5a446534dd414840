"""Random search: the baseline every other sampler must beat."""

from __future__ import annotations

import numpy as np

from automerge.recipe import Value
from automerge.samplers.base import Sampler, Told
from automerge.space import CategoricalParameter, Parameter, Space, prior_fractions
from automerge.trial import Params


class RandomSampler(Sampler):
    """Draws every active parameter from its prior; a proposal depends on seed and number alone."""

    def __init__(self, space: Space, n_objectives: int, seed: int, budget: int) -> None:
        self._space = space
        self._seed = seed

    def ask(self, number: int) -> Params:
        """Propose parameters for trial `number`."""
        return draw(self._space, np.random.default_rng([self._seed, number]))

    def tell(self, number: int, params: Params | None, told: Told | None) -> None:
        """Learn nothing."""


def draw(space: Space, rng: np.random.Generator, fixed: Params | None = None) -> Params:
    """Draw the active parameters from their priors, except those in `fixed`."""
    fixed = {} if fixed is None else fixed

    def choose(parameter: Parameter) -> Value:
        if parameter.name in fixed:
            return fixed[parameter.name]
        if isinstance(parameter, CategoricalParameter):
            return parameter.choices[int(rng.integers(len(parameter.choices)))]
        return parameter.at_fraction(float(prior_fractions(rng.random(1), parameter.scale)[0]))

    return space.walk(choose)
