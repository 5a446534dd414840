"""What a report needs to know about a study: values only, which the caller reads from the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeAlias

from automerge.constraint import Constraint
from automerge.objective import Estimate, ItemScores, Objective, estimate, goals
from automerge.text.printable import one_line
from automerge.trial import Failed, Measured, Outcome, Part, Trial

MODELS = "models"
"""The folder of exported models in a run folder."""
ADAPTERS = "adapters"
"""The folder of models exported as adapters in a run folder."""
MODEL = "MODEL"
"""The placeholder for the model's folder in a command."""

Versions: TypeAlias = Mapping[str, str]
"""Package → version."""
State = Literal["running", "interrupted", "finished", "failed"]


@dataclass(frozen=True)
class TrialResult:
    """A trial with its outcome in each part of the split that it was measured on.

    `believed` has the search's own estimates (with control variates) by objective name; without
    them, the plain estimates on search items are used. `model_dir` is relative to the run folder.
    `explained` has slopes along the line from equal weights to the trial's (`study.explanation`).
    """

    trial: Trial
    outcomes: Mapping[Part, Outcome]
    believed: Mapping[str, Estimate] = field(default_factory=dict)
    model_dir: str | None = None
    explained: tuple[Measured, ...] = ()

    def scores(self, part: Part, objective: str) -> ItemScores | None:
        """Return the item scores of one part and objective; None if nothing was measured."""
        outcome = self.outcomes.get(part)
        return outcome.scores.get(objective) if isinstance(outcome, Measured) else None

    def search_estimate(self, objective: Objective) -> Estimate | None:
        """Return what the search believed; None if it measured nothing."""
        if objective.name in self.believed:
            return self.believed[objective.name]
        scores = self.scores("search", objective.name)
        if scores is None or not scores.items:
            return None
        return estimate(scores, objective.aggregation)

    @property
    def failure(self) -> tuple[Part, Failed] | None:
        """The first part that failed, with its reason."""
        for part, outcome in self.outcomes.items():
            if isinstance(outcome, Failed):
                return part, outcome
        return None


@dataclass(frozen=True)
class ModelOrigin:
    """Where a base or source came from; `name` is its name in the study.

    `license` is what its card says, which anyone may have written: it is reduced to a short line.
    `align` is how it is aligned with the base (`automerge.files.align`); "" if it is not.
    """

    name: str
    path: str
    revision: str | None = None
    digest: str | None = None
    license: str | None = None
    align: str = ""

    def __post_init__(self) -> None:
        if self.license is not None:
            object.__setattr__(self, "license", one_line(self.license) or None)


@dataclass(frozen=True)
class Provenance:
    """What ran, on what and when.

    `tasks` maps tasks to digests. `started` and `finished` are times in ISO 8601. `score_commands`
    are the lm_eval commands, to be run in the run folder, that score a model on the test items;
    `MODEL` in them stands for the model's folder.
    """

    versions: Versions
    models: tuple[ModelOrigin, ...]
    tasks: Mapping[str, str]
    machine: str
    started: str
    finished: str | None
    command: str
    score_commands: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class StudyResult:
    """A study as a report sees it; `front`, `base`, `parents`, `uniform`, `knee` are trial numbers.

    `front` is chosen on select items, empty before that, and may contain parents. `parents` are the
    unchanged sources, in the order of `sources`, as far as they were tried. `budget` is a number of
    trials; `openings` is the number of shortlists that were frozen, more than one if a study was
    extended after a test. `smooth` are the objectives that have a smooth loss. `generated` says in
    which ways answers were generated, `batched` how large batches were where memory decided.
    """

    study: str
    state: State
    objectives: tuple[Objective, ...]
    trials: tuple[TrialResult, ...]
    front: tuple[int, ...]
    knee: int | None
    base: int | None
    parents: tuple[int, ...]
    uniform: int | None
    sources: tuple[str, ...]
    n_layers: int
    sampler: str
    seed: int
    budget: int | None
    provenance: Provenance
    warnings: tuple[str, ...] = ()
    max_items: int | None = None
    max_time: str | None = None
    patience: int | None = None
    constraints: tuple[Constraint, ...] = ()
    openings: int = 0
    smooth: tuple[str, ...] = ()
    generated: tuple[str, ...] = ()
    batched: tuple[str, ...] = ()

    @cached_property
    def by_number(self) -> Mapping[int, TrialResult]:
        """The trials by their numbers, in order."""
        return {found.trial.number: found for found in self.trials}

    def named(self, name: str) -> TrialResult:
        """Return the trial of this name, which must be there."""
        return next(found for found in self.trials if found.trial.name == name)

    @property
    def goals(self) -> tuple[Objective, ...]:
        """The objectives that are optimised; the others only serve constraints."""
        return goals(self.objectives)

    @property
    def limits(self) -> str:
        """The budget in words, such as "200 trials" or "20000 items or 8h"."""
        trials = None if self.budget is None else count(self.budget, "trial")
        return limits_in_words(trials, self.max_items, self.max_time, self.patience)


def limits_in_words(
    trials: str | None, max_items: int | None, max_time: str | None, patience: int | None
) -> str:
    """Say what ends a search first: its trials, in words, items, time or patience; None is none."""
    items = None if max_items is None else count(max_items, "item")
    waiting = None if patience is None else f"{count(patience, 'proposal')} without a win"
    limits = (trials, items, max_time, waiting)
    return " or ".join(limit for limit in limits if limit is not None)


def count(number: int, noun: str) -> str:
    """Format a number with its noun: 1 trial, 2 trials."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
