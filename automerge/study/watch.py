"""A study's progress, for observers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from automerge.objective import Objective, estimates
from automerge.trial import Failed, Outcome, Part, Trial


@dataclass(frozen=True)
class Snapshot:
    """Counts of one phase, the front so far, and what happened last.

    `total` is the expected count at the end; `last` is the trial that
    finished last, with its values or the reason it failed.
    """

    phase: Part
    done: int
    total: int
    running: int
    slots: int
    failed: int
    front: tuple[tuple[str, tuple[float, ...]], ...]
    last: str


class Observer(Protocol):
    """Watches a study; never changes it."""

    def update(self, snapshot: Snapshot) -> None: ...

    def note(self, message: str) -> None: ...


def label(trial: Trial, block: int) -> str:
    """Return a trial's name, with the block it is measured on if not the first."""
    return f"{trial.name} block {block + 1}" if block else trial.name


def described(
    objectives: Sequence[Objective], trial: Trial, outcome: Outcome, block: int = 0
) -> str:
    """Return a finished measurement as one line."""
    name = label(trial, block)
    if isinstance(outcome, Failed):
        return f"{name} failed ({outcome.kind}): {outcome.reason}"
    values = estimates(objectives, outcome.scores)
    shown = (f"{k} {v.value:.3f}" for k, v in values.items() if k not in outcome.left_out)
    rest = f"  (excluded; not measured: {', '.join(outcome.left_out)})" if outcome.left_out else ""
    return f"{name}  " + "  ".join(shown) + rest
