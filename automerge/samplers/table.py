"""All samplers by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from automerge.extensions import Table
from automerge.samplers import optuna
from automerge.samplers.base import Sampler, SamplerFactory
from automerge.samplers.cma import CmaSampler
from automerge.samplers.de import DeSampler
from automerge.samplers.descent import DescentSampler
from automerge.samplers.gp import GpSampler
from automerge.samplers.map import MapSampler
from automerge.samplers.qd import QdSampler
from automerge.samplers.random import RandomSampler
from automerge.space import Space

AUTO = "auto"
MAX_GP_DIMENSIONS, MAX_GP_TRIALS = 100, 1000
"""Up to here a Gaussian process is the best sampler, and cheap compared with a measurement. Where
slopes are followed, it has a part in that too, in any number of dimensions."""


@dataclass(frozen=True)
class Samplers(Mapping[str, SamplerFactory]):
    """Name → factory; `auto` chooses one of the others."""

    factories: Table[SamplerFactory]

    def __getitem__(self, name: str) -> SamplerFactory:
        return self._chosen if name == AUTO else self.factories[name]

    def __iter__(self) -> Iterator[str]:
        return iter((AUTO, *self.factories))

    def __len__(self) -> int:
        return 1 + len(self.factories)

    def problem(self, name: str) -> str | None:
        """Return why there is no sampler of this name; None where there is one."""
        return None if name == AUTO else self.factories.problem(name)

    def may_want_slopes(self, name: str) -> bool:
        """Return whether a sampler may follow slopes, as one from outside may."""
        factory = self.factories[name]
        if isinstance(factory, type):
            return getattr(factory, "wants_slopes", None) is not Sampler.wants_slopes
        return name not in self.factories.own

    def resolve(
        self, name: str, space: Space, n_objectives: int, budget: int, slopes: bool = False
    ) -> str:
        """Return the sampler a name stands for; every name but `auto` stands for itself.

        Args:
            name: in the configuration.
            space: what is searched.
            n_objectives: how many losses each trial has.
            budget: expected number of trials.
            slopes: whether all objectives have slopes in the space.
        """
        if name != AUTO:
            return name
        if slopes and budget <= MAX_GP_TRIALS:
            return "descent"
        small = len(space.roles) <= MAX_GP_DIMENSIONS and budget <= MAX_GP_TRIALS
        return "gp" if small else "cma"

    def _chosen(self, space: Space, n_objectives: int, seed: int, budget: int) -> Sampler:
        name = self.resolve(AUTO, space, n_objectives, budget)
        return self.factories[name](space, n_objectives, seed, budget)


def _admit(name: str, outside: object) -> SamplerFactory:
    """Accept a sampler's class or factory from outside the package; raise TypeError for others."""
    del name
    if not callable(outside):
        raise TypeError(
            "expected a class or function of (space, n_objectives, seed, budget), "
            f"got {type(outside).__name__}"
        )
    return cast(SamplerFactory, outside)


SAMPLERS = Samplers(
    Table(
        "sampler",
        {
            "cma": CmaSampler,
            "tpe": optuna.tpe,
            "nsga2": optuna.nsga2,
            "nsga3": optuna.nsga3,
            "descent": DescentSampler,
            "gp": GpSampler,
            "map": MapSampler,
            "de": DeSampler,
            "qd": QdSampler,
            "random": RandomSampler,
        },
        "automerge.samplers",
        _admit,
    )
)
