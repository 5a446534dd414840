"""The contract every sampler keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from automerge.space import Space
from automerge.trial import Params


@dataclass(frozen=True, slots=True)
class Slopes:
    """A goal's smooth loss, and its derivatives in the parameters.

    Attributes:
        loss: to be minimised, on the trial's items; in another unit than the goal's.
        by_role: role → derivative per fraction of the role's range (`Space.position`); roles that
            have none are not among them.
    """

    loss: float
    by_role: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Members:
    """What is known of the members of a goal that is a group.

    Attributes:
        losses: one per member, to be minimised; NaN where one was not measured. The group's loss is
            their mean, or the largest of them.
        errors: the standard error of each.
        worst: whether the largest counts, not the mean.
        slopes: of each member's smooth loss; None where none was measured.
    """

    losses: tuple[float, ...]
    errors: tuple[float, ...]
    worst: bool
    slopes: tuple[Slopes | None, ...] | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """What is known of a measured trial.

    Attributes:
        losses: one per goal, to be minimised.
        errors: the standard error of each loss; 0 where it is exact, None where nothing is known.
        slopes: of each goal's smooth loss, None for a goal without one and for groups, whose
            members have theirs; None where none was measured.
        known: whether each loss was measured. One that was not stands for all that were told: their
            mean, with their standard deviation as its error. None: all were.
        members: of each goal that is a group, the same ones in every trial; None for the others.
            Empty where there is no group. Violated constraints do not count in them.
    """

    losses: tuple[float, ...]
    errors: tuple[float, ...] | None = None
    slopes: tuple[Slopes | None, ...] | None = None
    known: tuple[bool, ...] | None = None
    members: tuple[Members | None, ...] = ()

    @property
    def is_finite(self) -> bool:
        """Whether every loss is a finite number; a trial with others counts as failed."""
        return all(map(math.isfinite, self.losses))


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
        """Replay an earlier `ask`, and return whether this sampler proposes the same.

        A sampler whose later state does not depend on its proposals may skip the computation and
        return True.

        Args:
            number: the trial's number.
            params: what was proposed when the study first asked.
        """
        return self.ask(number) == params

    def wants_slopes(self, number: int) -> float:
        """Return on how many items trial `number`, which was just asked for, is to have slopes.

        Returns:
            Their share of a candidate's items, up to 1, for three times its price: a third costs as
            much as a measurement without slopes. 0 where no slopes are wanted.
        """
        return 0.0

    def direction(self, number: int) -> tuple[float, ...]:
        """Return the trade-off that trial `number`, which was just asked for, is to improve.

        Returns:
            Weights of the goals, which sum to 1; empty where it is for none in particular.
        """
        return ()

    def favourites(self) -> Sequence[int]:
        """Return the trials that it takes for the best compromises, the best first, if it can tell
        better than from their scores alone."""
        return ()

    def tell(self, number: int, params: Params | None, told: Told | None) -> None:
        """Report a trial, once.

        Trials that were never asked for (base, sources, the user's recipes) are told too.

        Args:
            number: the trial's number.
            params: its parameters; None where the space cannot express its recipe.
            told: what was measured; None for a failure.
        """
        ...


@runtime_checkable
class Remarking(Protocol):
    """A sampler that has something to say of its search."""

    def remarks(self) -> Sequence[str]:
        """Return sentences for the user, once the search has ended."""
        ...


class SamplerFactory(Protocol):
    """Builds a sampler."""

    def __call__(self, space: Space, n_objectives: int, seed: int, budget: int) -> Sampler:
        """Build a sampler.

        Args:
            space: what it proposes parameters of.
            n_objectives: how many losses each trial has.
            seed: decides every proposal, with the calls.
            budget: expected number of trials, for samplers that plan ahead.
        """
        ...
