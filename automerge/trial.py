"""What goes to a worker and what comes back: values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from automerge.objective import ItemScores
from automerge.recipe import Recipe

Part = Literal["search", "select", "test"]
PARTS: tuple[Part, ...] = ("search", "select", "test")

Params: TypeAlias = Mapping[str, float | int | bool | str]
Items: TypeAlias = Mapping[str, tuple[int, ...]]
"""Leaf task → lm-eval doc ids, ascending."""

FailureKind = Literal["invalid", "error", "oom", "timeout", "infra"]


@dataclass(frozen=True)
class Job:
    """One measurement to make: a recipe on items of one part of the split."""

    trial: int
    recipe: Recipe
    part: Part
    items: Items


@dataclass(frozen=True)
class Timings:
    """Seconds of wall time a measurement spent in each phase."""

    merge: float = 0.0
    forward: float = 0.0
    score: float = 0.0
    total: float = 0.0

    @property
    def rest(self) -> float:
        return self.total - self.merge - self.forward - self.score


@dataclass(frozen=True)
class Measured:
    """Item scores of every objective, by objective name."""

    scores: Mapping[str, ItemScores]
    timings: Timings
    tokens: int = 0
    notes: Mapping[str, float] = field(default_factory=dict)
    """Shares worth a look: truncated, empty or repeated generations, merged tensors."""


@dataclass(frozen=True)
class Failed:
    """Why there are no scores.

    `invalid` says the merged model is broken (not finite, constant output); `error` that a task or
    the merge raised; the others name what the machine did.
    """

    kind: FailureKind
    reason: str
    traceback: str = ""


Outcome: TypeAlias = Measured | Failed


@dataclass(frozen=True)
class Trial:
    """One recipe of a study, numbered in the order it was asked.

    `params` is None for recipes that no sampler proposed and the space cannot express.
    `origin` says who proposed it: "base", "source", "uniform", "recipe" or the sampler's name.
    """

    number: int
    recipe: Recipe
    origin: str
    name: str
    params: Params | None = None
