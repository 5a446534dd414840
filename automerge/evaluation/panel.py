"""The evaluators of one study as one evaluator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from automerge.errors import Fault, PreflightError
from automerge.evaluation.base import (
    Backward,
    Entry,
    Evaluator,
    GeneratingTasks,
    Live,
    OpenTasks,
    Scored,
    Scorer,
    Settings,
    SlopeScorer,
    SmoothTasks,
    TaskFault,
    TasksRefused,
    together,
)
from automerge.evaluation.split import Split
from automerge.evaluation.table import DIVERGENCE, EVALUATORS
from automerge.objective import Objective
from automerge.trial import Items, Part, Steering

T = TypeVar("T")


@dataclass(frozen=True)
class Panel:
    """All that a study measures: entries of several evaluators, in the study's order.

    It consists of plain values, so it travels anywhere; evaluators are looked up where it is used,
    after the user's modules were loaded there.
    """

    entries: tuple[Entry, ...]
    settings: Settings

    @property
    def heads(self) -> int:
        """How many output heads a worker holds: 2 where the base's is kept beside its own."""
        return 1 + any(entry.evaluator == DIVERGENCE for entry in self.entries)

    def keep(self, run: Path) -> None:
        """Copy what the tasks read into a run folder; raises PreflightError with every fault."""
        self._each(lambda evaluator: evaluator.keep(run))

    def open(self, run: Path, keep: bool = False) -> OpenPanel:
        """Open the tasks from a run folder; with `keep`, make the copies there first.

        Raises:
            PreflightError: with every fault of every evaluator.
        """

        def act(evaluator: Evaluator) -> OpenTasks:
            if keep:
                evaluator.keep(run)
            return evaluator.open(run)

        opened = self._each(act)
        panel = OpenPanel(tuple((tasks, indices) for indices, tasks in opened))
        panel.check()
        return panel

    def _each(self, act: Callable[[Evaluator], T]) -> list[tuple[tuple[int, ...], T]]:
        """Act on every evaluator; return the indices of its entries and the result, or raise."""
        found: list[tuple[tuple[int, ...], T]] = []
        task_faults: list[TaskFault] = []
        faults: list[Fault] = []
        for name in dict.fromkeys(entry.evaluator for entry in self.entries):
            indices = tuple(i for i, e in enumerate(self.entries) if e.evaluator == name)
            try:
                evaluator = EVALUATORS[name]([self.entries[i] for i in indices], self.settings)
                found.append((indices, act(evaluator)))
            except TasksRefused as error:
                task_faults += [
                    TaskFault(indices[fault.spec], fault.field, fault.message)
                    for fault in error.task_faults
                ]
            except PreflightError as error:
                faults += error.faults
        if faults:
            raise PreflightError([*(Fault(fault.message) for fault in task_faults), *faults])
        if task_faults:
            raise TasksRefused(sorted(task_faults, key=lambda fault: fault.spec))
        return found


@dataclass(frozen=True, eq=False)
class OpenPanel:
    """Open tasks of several evaluators, each with the indices of its entries."""

    opened: tuple[tuple[OpenTasks, tuple[int, ...]], ...]

    def check(self) -> None:
        """Refuse a leaf task that two evaluators name; raises PreflightError."""
        owners: dict[str, int] = {}
        faults: list[TaskFault] = []
        for tasks, indices in self.opened:
            for leaf in {leaf: None for own in tasks.members.values() for leaf in own}:
                if leaf in owners:
                    message = f"two evaluators have a task named {leaf!r}; give one another `name`"
                    faults.append(TaskFault(indices[0], "name", message))
                owners.setdefault(leaf, indices[0])
        if faults:
            raise TasksRefused(faults)

    @cached_property
    def objectives(self) -> tuple[Objective, ...]:
        """One per entry, in the study's order."""
        numbered = [
            pair
            for tasks, indices in self.opened
            for pair in zip(indices, tasks.objectives, strict=True)
        ]
        return tuple(objective for _, objective in sorted(numbered, key=lambda pair: pair[0]))

    @cached_property
    def members(self) -> Mapping[str, tuple[str, ...]]:
        """The leaf tasks of each objective, in the study's order."""
        found = {name: own for tasks, _ in self.opened for name, own in tasks.members.items()}
        return {o.name: found[o.name] for o in self.objectives if o.name in found}

    @cached_property
    def parts(self) -> Mapping[str, tuple[Part, ...]]:
        """The parts that documents of leaf tasks may be in."""
        return {leaf: own for tasks, _ in self.opened for leaf, own in tasks.parts.items()}

    @property
    def smooth(self) -> tuple[str, ...]:
        """The objectives with a smooth loss, in the study's order."""
        able = [tasks for tasks, _ in self.opened if isinstance(tasks, SmoothTasks)]
        return self._in_order(name for tasks in able for name in tasks.smooth)

    @property
    def generated(self) -> tuple[str, ...]:
        """The objectives that need generated answers, in the study's order."""
        able = [tasks for tasks, _ in self.opened if isinstance(tasks, GeneratingTasks)]
        return self._in_order(name for tasks in able for name in tasks.generated)

    def _in_order(self, names: Iterable[str]) -> tuple[str, ...]:
        found = set(names)
        return tuple(o.name for o in self.objectives if o.name in found)

    def documents(self) -> dict[str, Sequence[object]]:
        """Return each leaf task's documents."""
        return {leaf: docs for tasks, _ in self.opened for leaf, docs in tasks.documents().items()}

    def digests(self) -> dict[str, str]:
        """Return a digest of each leaf task."""
        return {leaf: own for tasks, _ in self.opened for leaf, own in tasks.digests().items()}

    def warnings(self, split: Split) -> list[str]:
        """Return every evaluator's warnings."""
        return [line for tasks, _ in self.opened for line in tasks.warnings(split)]

    def commands(self, model: Path, samples: Path, dtype: str) -> list[list[str]]:
        """Return every evaluator's commands."""
        return [
            list(command)
            for tasks, _ in self.opened
            for command in tasks.commands(model, samples, dtype)
        ]

    def attach(self, live: Live) -> PanelScorer:
        """Return a scorer for the objectives of all; raises PreflightError."""
        scorers = tuple(
            (tasks.attach(live), frozenset(leaf for own in tasks.members.values() for leaf in own))
            for tasks, _ in self.opened
        )
        return PanelScorer(scorers, tuple(objective.name for objective in self.objectives))


class PanelScorer:
    """Asks each evaluator's scorer for the items of its own leaf tasks."""

    def __init__(
        self, scorers: Sequence[tuple[Scorer, frozenset[str]]], names: Sequence[str]
    ) -> None:
        self._scorers, self._names = tuple(scorers), tuple(names)

    def score(self, items: Items) -> Scored:
        """Return the item scores of every objective, in the study's order."""
        return self._in_order(
            [scorer.score(_own(items, leaves)) for scorer, leaves in self._scorers]
        )

    def score_with_slopes(self, items: Items, steering: Steering, backward: Backward) -> Scored:
        """Return the same, and hand over losses of the evaluators that know them."""
        return self._in_order(
            [
                scorer.score_with_slopes(_own(items, leaves), steering, backward)
                if isinstance(scorer, SlopeScorer)
                else scorer.score(_own(items, leaves))
                for scorer, leaves in self._scorers
            ]
        )

    def _in_order(self, found: Sequence[Scored]) -> Scored:
        scored = together(found)
        return replace(scored, scores={name: scored.scores[name] for name in self._names})


def _own(items: Items, leaves: frozenset[str]) -> Items:
    return {leaf: ids for leaf, ids in items.items() if leaf in leaves}
