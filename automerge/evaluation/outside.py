"""Evaluators from outside the package: what they raise names them, what they return is checked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from automerge.errors import AutomergeError, PreflightError
from automerge.evaluation.base import (
    Entry,
    Evaluator,
    EvaluatorFactory,
    FittingTasks,
    Live,
    OpenTasks,
    Scored,
    Scorer,
    Settings,
)
from automerge.evaluation.guards import InvalidOutput, MetricError
from automerge.evaluation.split import Split
from automerge.extensions import raised_at
from automerge.machine.allocation import is_out_of_memory
from automerge.objective import ItemScores, Objective
from automerge.text.error import cause
from automerge.trial import Items, Part

if TYPE_CHECKING:
    from automerge.checkpoints.kinds import ModelKind


def outside(name: str, factory: EvaluatorFactory) -> EvaluatorFactory:
    """Return the factory of an evaluator that is known by a name and held to the contract."""

    def build(entries: Sequence[Entry], settings: Settings) -> Evaluator:
        with _blaming(name):
            return _Evaluator(name, factory(entries, settings), entries)

    return build


@contextmanager
def _blaming(name: str, kind: type[AutomergeError] = PreflightError) -> Iterator[None]:
    """Turn whatever an evaluator raises into a sentence with its name and place."""
    try:
        yield
    except AutomergeError:
        raise
    except Exception as error:
        if is_out_of_memory(error):  # the worker makes room
            raise
        at = raised_at(name.partition(":")[0].partition(".")[0], error)
        where = "" if at is None else f" ({at})"
        raise kind(f"evaluator {name!r} raised {cause(error)[:300]}{where}") from error


class _Evaluator:
    """An evaluator whose faults are its own."""

    def __init__(self, name: str, evaluator: Evaluator, entries: Sequence[Entry]) -> None:
        self._name, self._evaluator, self._entries = name, evaluator, tuple(entries)

    def keep(self, run: Path) -> None:
        with _blaming(self._name):
            self._evaluator.keep(run)

    def open(self, run: Path) -> OpenTasks:
        with _blaming(self._name):
            tasks = _Tasks(self._name, self._evaluator.open(run))
            tasks.check([entry.name for entry in self._entries])
        return tasks


class _Tasks:
    """Open tasks whose faults are their evaluator's."""

    def __init__(self, name: str, tasks: OpenTasks) -> None:
        self._name, self._tasks = name, tasks

    def check(self, names: Sequence[str]) -> None:
        """Compare what is there with the entries; raises PreflightError."""
        found = [objective.name for objective in self.objectives]
        leaves = {leaf for own in self.members.values() for leaf in own}
        unlike = {
            f"objectives {found} instead of {list(names)}": found != list(names),
            "members of other objectives": not set(self.members) <= set(names),
            "documents of other leaf tasks than its members": set(self.documents()) != leaves,
            "digests of other leaf tasks than its members": set(self.digests()) != leaves,
        }
        for what, is_so in unlike.items():
            if is_so:
                raise PreflightError(
                    f"evaluator {self._name!r} has {what}; see docs/evaluators.md, and test it "
                    "with automerge.testing.EvaluatorLaws"
                )

    def on(self, model: str, kind: ModelKind) -> _Tasks:
        """Return the tasks as they are on a kind of model; raises PreflightError."""
        if not isinstance(self._tasks, FittingTasks):
            return self
        with _blaming(self._name):
            return _Tasks(self._name, self._tasks.on(model, kind))

    @property
    def objectives(self) -> Sequence[Objective]:
        return self._tasks.objectives

    @property
    def members(self) -> Mapping[str, tuple[str, ...]]:
        return self._tasks.members

    @property
    def parts(self) -> Mapping[str, tuple[Part, ...]]:
        return self._tasks.parts

    def documents(self) -> Mapping[str, Sequence[object]]:
        with _blaming(self._name):
            return self._tasks.documents()

    def digests(self) -> Mapping[str, str]:
        with _blaming(self._name):
            return self._tasks.digests()

    def warnings(self, split: Split) -> Sequence[str]:
        with _blaming(self._name):
            return self._tasks.warnings(split)

    def commands(self, model: Path, samples: Path, dtype: str) -> Sequence[Sequence[str]]:
        with _blaming(self._name):
            return self._tasks.commands(model, samples, dtype)

    def attach(self, live: Live) -> Scorer:
        with _blaming(self._name):
            return _Scorer(self._name, self._tasks.attach(live), self._tasks.members)


class _Scorer:
    """A scorer whose scores are those of the items asked for."""

    def __init__(self, name: str, scorer: Scorer, members: Mapping[str, tuple[str, ...]]) -> None:
        self._name, self._scorer, self._members = name, scorer, members

    def score(self, items: Items) -> Scored:
        """Score, and check what was returned.

        Raises:
            InvalidOutput: a score or margin is not finite.
            MetricError: the scorer failed, or did not score the items asked for.
        """
        with _blaming(self._name, MetricError):
            scored = self._scorer.score(items)
            for objective, leaves in self._members.items():
                wanted = [(leaf, i) for leaf in leaves for i in items.get(leaf, ())]
                scores = scored.scores.get(objective)
                if scores is None or list(scores.items) != wanted:
                    got = "none" if scores is None else f"{len(scores.items)}"
                    raise MetricError(
                        f"evaluator {self._name!r} was asked for {len(wanted)} items of "
                        f"{objective!r} and returned {got}, or in another order; expected one "
                        "score per item, in the items' order"
                    )
                self._check(objective, scores, "")
                margins = scored.margins.get(objective)
                if margins is not None and not set(margins.items) <= set(scores.items):
                    raise MetricError(
                        f"evaluator {self._name!r} returned margins of items of {objective!r} "
                        "that have no score; leave them out"
                    )
                self._check(objective, margins, "margin ")
        return scored

    def _check(self, objective: str, found: ItemScores | None, kind: str) -> None:
        """Raise InvalidOutput where a number is not finite."""
        for value in () if found is None else found.values:
            if not math.isfinite(value):
                raise InvalidOutput(
                    f"evaluator {self._name!r} returned {kind}{value} for an item of "
                    f"{objective!r}; expected a finite number"
                )
