"""Workers by formula: what an executor made of a job can be foretold."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from automerge.errors import ModelsChanged, PreflightError
from automerge.objective import ItemScores
from automerge.recipe import Profile, Recipe, RecipeSource
from automerge.trial import Failed, Job, Measured, Outcome, Part, Timings

IDENTITY = {"formula": "1"}
PLACE = "place"
"""The note in which a worker says where it measured: the process's number."""
FAILING = 3
"""The trial that fails on every worker."""


def job(trial: int, part: Part = "search") -> Job:
    """Return the job of a trial, whose recipe and items differ from those of the others."""
    source = RecipeSource("a", {"weight": Profile.of(0.125 * trial)})
    return Job(trial, Recipe("linear", (source,)), part, {"task": tuple(range(trial, trial + 8))})


def scores(job: Job) -> dict[str, ItemScores]:
    """Return what every worker measures in a job."""
    items = [("task", i) for i in job.items["task"]]
    digests = [hashlib.sha256(f"{job.recipe.id} {i}".encode()).digest() for _, i in items]
    return {"score": ItemScores(tuple(items), tuple(digest[0] / 256 for digest in digests))}


def margins(job: Job) -> dict[str, ItemScores]:
    """Return what goes with the scores."""
    return {name: found.rows(range(0, len(found.items), 2)) for name, found in scores(job).items()}


@dataclass
class FormulaWorker:
    """Scores by formula; refuses a job whose part it was not told.

    Attributes:
        changed: where it finds its models changed.
        identities: what it says of itself.
    """

    changed: Literal["prepare", "measure"] | None = None
    identities: Mapping[str, str] | None = None
    told: Part | None = None

    def prepare(self, part: Part) -> None:
        """Remember the part of the next job."""
        self._find_changed("prepare")
        self.told = part

    def measure(self, job: Job) -> Outcome:
        """Measure a job."""
        self._find_changed("measure")
        told, self.told = self.told, None
        if told != job.part:
            return Failed("error", f"told {told!r} before a job of {job.part}")
        if job.trial == FAILING:
            return Failed("invalid", "made to fail")
        return Measured(
            scores(job),
            Timings(0.0, 0.0, 0.0, 0.0),
            notes={PLACE: float(os.getpid())},
            margins=margins(job),
        )

    def identity(self) -> Mapping[str, str]:
        """Say what was given."""
        return IDENTITY if self.identities is None else self.identities

    def _find_changed(self, where: str) -> None:
        if self.changed == where:
            raise ModelsChanged(f"changed in {where}")


def unbuilt() -> FormulaWorker:
    """Refuse, as a worker whose model does not fit."""
    raise PreflightError("the model does not fit")
