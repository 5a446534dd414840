"""One cell of the tables: a study as users run it, with its front's values on unseen items."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from automerge import demo
from automerge.config import StudyConfig, load_config
from automerge.executors.base import Executor
from automerge.items import BASELINE_SHARES
from automerge.objective import goals
from automerge.samplers import SAMPLERS
from automerge.session.open import Session, open_session
from automerge.study import Snapshot
from automerge.study.context import Context
from automerge.study.dispatch import Dispatcher
from automerge.study.search import Search
from automerge.study.selection import Selection
from automerge.trial import Job, Measured, Outcome

ITEMS_PER_CANDIDATE = 50
SELECT, TEST = 150, 300
"""Items of each objective that a front is chosen on, and that its true values come from."""
SLOPE_COST = 3
"""Forward passes that a measurement with slopes counts for."""


@dataclass(frozen=True)
class Cell:
    """A zoo and space, who searches it, for how many trials' worth of tokens, and the seed.

    `sampler` is a name, with settings of the study after commas: `auto,slopes=off`,
    `nsga2,evaluation.items_per_candidate=full,split.search=0.02`.
    """

    zoo: str
    space: str
    sampler: str
    budget: int
    seed: int


def zoo_config(name: str, folders: Mapping[str, Path]) -> Path:
    """The configuration of a zoo: the shipped demo's, or that in the folder given for the name.

    `text/choice` is choice.yaml in the folder given for `text`.
    """
    if name == "demo":
        return demo.CONFIG
    zoo, _, file = name.partition("/")
    return folders[zoo] / f"{file or 'config'}.yaml"


def settings(
    cell: Cell,
    config: Path,
    run: Path,
    properties: Sequence[str] = (),
    groups: Sequence[Mapping[str, Any]] = (),
    evidence: Mapping[str, Any] | None = None,
) -> StudyConfig:
    """The study of a cell: the zoo's models and tasks, the shipped search space."""
    plain: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8"))
    here = config.resolve().parent
    sampler, *others = cell.sampler.split(",")
    study: dict[str, Any] = {
        "name": plain["name"],
        "base": str(here / plain["base"]),
        "models": {name: str(here / folder) for name, folder in plain["models"].items()},
        "include_path": str(here / plain["include_path"]),
        "tasks": plain["tasks"],
        "properties": list(properties),
        "groups": list(groups),
        "search": cell.space,
        "sampler": sampler,
        "budget": cell.budget,
        "seed": cell.seed,
        "executor": "local",
        "evaluation": {"batch_size": 64, "items_per_candidate": ITEMS_PER_CANDIDATE},
        "split": {"max_select": SELECT, "max_test": TEST},
        "export": "none",
        "out": str(run),
    }
    if evidence:
        study["evidence"] = evidence
    for other in others:
        key, _, value = other.partition("=")
        *sections, last = key.split(".")
        place = study
        for section in sections:
            place = place[section]
        place[last] = _value(value)
    return load_config(study)


def _value(text: str) -> Any:
    """Return a number as one, whatever else as it is."""
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return text


class Metered:
    """An executor that counts what a search spends, and outlives the phases of a study.

    Its worker is built once, for the search, the selection and the true values.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.submit = executor.submit
        self.withdraw = executor.withdraw
        self.tokens = 0
        """Forward-pass tokens, those of measurements with slopes `SLOPE_COST` times."""
        self.has_slopes = False
        self.tokens_of_first = 0

    @property
    def slots(self) -> int:
        return self._executor.slots

    def next_finished(self, timeout_s: float) -> tuple[Job, Outcome] | None:
        finished = self._executor.next_finished(timeout_s)
        if finished is not None and finished[0].part == "search":
            self._count(*finished)
        return finished

    def _count(self, job: Job, outcome: Outcome) -> None:
        if isinstance(outcome, Measured):
            with_slopes = bool(getattr(outcome, "slopes", None))
            self.tokens += outcome.tokens * (SLOPE_COST if with_slopes else 1)
            self.has_slopes |= with_slopes
            if job.trial == 0:
                self.tokens_of_first = outcome.tokens

    def close(self) -> None:
        """Leave the worker alone: whoever opened it closes it."""


class Unwatched:
    def update(self, snapshot: Snapshot) -> None: ...

    def note(self, message: str) -> None:
        print(f"  {message}", flush=True)


@dataclass(frozen=True)
class Searched:
    """What a search found and what it cost."""

    front: tuple[int, ...]
    tokens: int
    trials: int
    seconds: float
    """Processor seconds of the search without selection."""


@contextmanager
def opened(config: StudyConfig) -> Iterator[tuple[Session, Executor]]:
    """A session and its worker."""
    session = open_session(config, "experiments.search_quality")
    with session.store:
        executor = session.executor(print)
        try:
            yield session, executor
        finally:
            executor.close()


def search(session: Session, executor: Executor) -> Searched:
    """Search and select; the sealed items are left alone.

    A study whose trials have slopes ends once it has spent the tokens that its budget of trials
    would cost without; any other ends by the number of trials.
    """
    config, plan = session.config, session.plan
    n_first, n_goals = len(plan.first), len(goals(plan.objectives))
    budget = config.expected_budget
    sampler = SAMPLERS[session.sampler](session.space, n_goals, config.seed, budget)
    metered = Metered(executor)
    searching = True

    def stop() -> bool:
        trial = metered.tokens_of_first / BASELINE_SHARES
        allowed = trial * (BASELINE_SHARES * n_first + budget - n_first)
        return searching and metered.has_slopes and metered.tokens >= allowed

    context = Context(session.store, plan, Dispatcher(lambda: metered), Unwatched(), stop)
    phase = Search(context, session.space, sampler)
    start = time.process_time()
    phase.run()
    seconds = time.process_time() - start
    searching = False
    Selection(context).select(phase.trials, phase.estimates, phase.favourites)
    front = session.store.study.decided.front or ()
    return Searched(front, metered.tokens, len(phase.trials), seconds)
