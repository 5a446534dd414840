"""A study's progress, for observers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from automerge.objective import Objective, estimates
from automerge.trial import Failed, Outcome, Part, Trial

Scored: TypeAlias = tuple[tuple[str, tuple[float, ...]], ...]
"""Models' names and values, in the order of the objectives."""


@dataclass(frozen=True)
class Snapshot:
    """Counts of one phase, the front so far, and what happened last.

    Attributes:
        total: the expected count at the end of the phase.
        front: names and values of what is nondominated so far, on search items.
        last: the trial that finished last, with its values or the reason it failed.
        parents: names and values of base and sources, on search items.
        later_s: the seconds that the phases after this one take at most, at the workers' pace.
        values: what the trial that finished last scored, by objective; empty if it failed.
    """

    phase: Part
    done: int
    total: int
    running: int
    slots: int
    failed: int
    front: Scored
    last: str
    parents: Scored = ()
    later_s: float = 0.0
    values: Mapping[str, float] = field(default_factory=dict)


class Observer(Protocol):
    """Watches a study; never changes it."""

    def update(self, snapshot: Snapshot) -> None: ...

    def note(self, message: str) -> None: ...


def label(trial: Trial, block: int) -> str:
    """Return a trial's name, with the block it is measured on if not the first."""
    return f"{trial.name} block {block + 1}" if block else trial.name


def scored(objectives: Sequence[Objective], outcome: Outcome) -> dict[str, float]:
    """Return what was measured, by objective; empty for a failure."""
    if isinstance(outcome, Failed):
        return {}
    values = estimates(objectives, outcome.scores)
    return {k: v.value for k, v in values.items() if v.n}


def described(
    objectives: Sequence[Objective], trial: Trial, outcome: Outcome, block: int = 0
) -> str:
    """Return a finished measurement as one line."""
    name = label(trial, block)
    if isinstance(outcome, Failed):
        return f"{name} failed ({outcome.kind}): {outcome.reason}"
    shown = (f"{k} {v:.3f}" for k, v in scored(objectives, outcome).items())
    rest = f"  (excluded; not measured: {', '.join(outcome.left_out)})" if outcome.left_out else ""
    return f"{name}  " + "  ".join(shown) + rest
