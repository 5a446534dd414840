"""The contract every sampler keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from automerge.space import Space
from automerge.trial import Params


class Sampler(Protocol):
    """Proposes parameters; learns from losses.

    The law: `ask` at any time; `tell` in any order, each trial once, failures too; the seed and
    the sequence of calls decide every proposal, and no global random generator is read or
    written. So replaying the calls a store recorded restores a sampler exactly.
    """

    def ask(self, number: int) -> Params:
        """Propose parameters for trial `number`."""
        ...

    def repeat(self, number: int, params: Params) -> bool:
        """Ask again, of a new sampler, for what an earlier one proposed; whether that is the same.

        A sampler whose state does not depend on it may spare itself the proposal, and trust.
        """
        return self.ask(number) == params

    def tell(self, number: int, params: Params | None, losses: Sequence[float] | None) -> None:
        """Report a trial: its losses (to minimise, one an objective), or None for a failure.

        Trials that were never asked for (base, sources, the user's recipes) are told too;
        `params` is None where the space cannot express them.
        """
        ...


class SamplerFactory(Protocol):
    """Builds a sampler for a space and a number of objectives."""

    def __call__(self, space: Space, n_objectives: int, seed: int, budget: int) -> Sampler: ...
