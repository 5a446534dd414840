"""The loop: ask, measure, record, tell; then select and test what was found.

One driver owns the loop and the store; workers hold no search state. Every change is in the store
before it is acted on, so replaying the store's events restores the sampler exactly.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from automerge import pareto
from automerge.errors import SearchAborted
from automerge.estimation.scoreboard import Scoreboard
from automerge.executors.base import Executor
from automerge.items import BASELINE_SHARES, ItemDraw
from automerge.objective import Estimate, Objective, estimates, losses
from automerge.recipe import Recipe
from automerge.samplers.base import Sampler
from automerge.space import Space
from automerge.store import Store
from automerge.trial import Failed, Items, Job, Measured, Outcome, Part, Trial

Origin = Literal["base", "source", "uniform", "recipe"]
BASELINES: tuple[str, ...] = ("base", "source", "uniform")

DUPLICATES_IN_A_ROW = 100
"""So many proposals already measured, one after the other, mean that the space is exhausted."""

IDENTICAL_ERRORS_IN_A_ROW = 3


@dataclass(frozen=True)
class FirstTrial:
    """A recipe measured before the sampler is asked for any."""

    name: str
    origin: Origin
    recipe: Recipe


@dataclass(frozen=True)
class Plan:
    """What a study measures; the same plan and store always give the same study."""

    objectives: tuple[Objective, ...]
    first: tuple[FirstTrial, ...]
    items: Mapping[Part, Items]
    draw: ItemDraw
    budget: int
    shortlist: int

    @property
    def pool(self) -> dict[str, list[tuple[str, int]]]:
        """The search items of each objective."""
        search = self.items["search"]
        return {
            o.name: [(task, doc) for task in self.draw.members[o.name] for doc in search[task]]
            for o in self.objectives
        }


@dataclass(frozen=True)
class Snapshot:
    """How far a study is, for whoever watches."""

    phase: Part
    done: int
    total: int
    running: int
    slots: int
    failed: int
    front: tuple[tuple[str, tuple[float, ...]], ...]
    last: str
    """The trial that finished last, with its values or the reason it failed."""


class Observer(Protocol):
    """Watches a study; never changes it."""

    def update(self, snapshot: Snapshot) -> None: ...

    def note(self, message: str) -> None: ...


class Driver:
    """Runs the phases of one study; each picks up where the store says the last run stopped."""

    def __init__(
        self,
        store: Store,
        plan: Plan,
        space: Space,
        sampler: Sampler,
        executor: Callable[[], Executor],
        observer: Observer,
        stop: Callable[[], bool],
    ) -> None:
        self.store = store
        self.plan = plan
        self._space = space
        self._sampler = sampler
        self._start_executor = executor
        self._executor: Executor | None = None
        self._observer = observer
        self._stop = stop
        self._trials = {trial.number: trial for trial in store.trials()}
        self._duplicate_of = store.duplicates()
        self._sharing: dict[int, list[int]] = {}
        for number, original in self._duplicate_of.items():
            self._sharing.setdefault(original, []).append(number)
        # How each search measurement ended; None with scores, which stay in the store.
        self._ended: dict[int, Failed | None] = {}
        self._failed: Counter[Part] = Counter()
        self._board = Scoreboard(plan.objectives, plan.pool)
        self._on_board: dict[int, int] = {}
        self._values: dict[int, dict[str, Estimate]] = {}
        self._front: dict[int, tuple[float, ...]] = {}
        for number, outcome in store.each_outcome("search"):
            self._enter(number, outcome)
        self._by_recipe: dict[str, int] = {}
        for number, trial in self._trials.items():
            self._by_recipe.setdefault(trial.recipe.id, number)
        self._in_flight: dict[int, Job] = {}
        self._errors_in_a_row: list[str] = []
        self._done = 0

    def run(self) -> bool:
        """Search, select and test; False when it was stopped before the end."""
        try:
            for phase in (self._search, self._select, self._test):
                phase()
                if self._stop():
                    return False
        finally:
            if self._executor is not None:
                self._executor.close()
        return True

    # Search

    def _search(self) -> None:
        self._replay()
        for number in self._ended:
            self._abort_if_hopeless(number)
        for trial in self._unfinished():
            self._submit(trial, "search")
        exhausted = False
        while True:
            while not (exhausted or self._stop()) and self._wants_more():
                exhausted = not self._ask_next()
            if not self._in_flight:
                break
            self._collect("search", self.plan.budget)

    def _replay(self) -> None:
        """Repeat every recorded call to the sampler, in order."""
        strayed = False
        for event in self.store.events():
            trial = self._trials[event.trial]
            if event.kind == "tell":
                self._tell(trial)
            elif trial.origin not in (*BASELINES, "recipe"):
                strayed |= self._sampler.ask(trial.number) != trial.params
        if strayed:
            self._observer.note(
                "the sampler's proposals differ from those recorded (another version of a "
                "library?); the search goes on from the recorded results"
            )
        told = {event.trial for event in self.store.events() if event.kind == "tell"}
        for number, original in self._duplicate_of.items():
            if number not in told and original in self._ended:
                self._tell_duplicate(number)

    def _unfinished(self) -> list[Trial]:
        return [
            trial
            for number, trial in self._trials.items()
            if number not in self._ended and number not in self._duplicate_of
        ]

    def _charged(self) -> int:
        return len(self._trials) - len(self._duplicate_of)

    def _wants_more(self) -> bool:
        return self._charged() < self.plan.budget and self._free()

    def _ask_next(self) -> bool:
        """Record the next trial and set it going; False when the space has nothing new."""
        for _ in range(DUPLICATES_IN_A_ROW):
            trial = self._next_trial()
            original = self._by_recipe.get(trial.recipe.id)
            self.store.ask(trial, duplicate_of=original)
            self._trials[trial.number] = trial
            if original is None:
                self._by_recipe[trial.recipe.id] = trial.number
                self._submit(trial, "search")
                return True
            self._duplicate_of[trial.number] = original
            self._sharing.setdefault(original, []).append(trial.number)
            if original in self._ended:
                self._tell_duplicate(trial.number)
        self._observer.note(
            f"{DUPLICATES_IN_A_ROW} proposals in a row were already measured: the search space "
            "is exhausted, and the search ends here"
        )
        return False

    def _next_trial(self) -> Trial:
        number = len(self._trials)
        if number < len(self.plan.first):
            first = self.plan.first[number]
            params = self._space.params(first.recipe)
            return Trial(number, first.recipe, first.origin, first.name, params)
        params = self._sampler.ask(number)
        return Trial(number, self._space.recipe(params), "sampler", f"trial-{number}", params)

    def _finish(self, job: Job, outcome: Outcome) -> None:
        self.store.record(job, outcome)
        self._enter(job.trial, outcome)
        self._tell(self._trials[job.trial])
        for number in self._sharing.get(job.trial, ()):
            self._tell_duplicate(number)
        self._abort_on_repeated_errors(job, outcome)

    def _enter(self, number: int, outcome: Outcome) -> None:
        """Estimate a trial's values from its items and from what was measured before it."""
        if isinstance(outcome, Failed):
            self._ended[number] = outcome
            self._failed["search"] += 1
            return
        self._ended[number] = None
        params = self._trials[number].params
        position = None if params is None else self._space.position(params)
        self._on_board[number] = self._board.add(position, outcome.scores)
        self._values[number] = self._board.estimates(self._on_board[number])
        self._join_front(number)

    def _join_front(self, number: int) -> None:
        """Keep what nothing dominates on search items, without comparing all with all again."""
        row = losses(self.plan.objectives, self._values[number])
        others = self._front.items()
        if all(map(math.isfinite, row)) and not any(
            pareto.dominates(other, row) for _, other in others
        ):
            kept = {n: other for n, other in others if not pareto.dominates(row, other)}
            self._front = {**kept, number: row}

    def _tell(self, trial: Trial) -> None:
        measured = self._values.get(self._duplicate_of.get(trial.number, trial.number))
        values = None if measured is None else losses(self.plan.objectives, measured)
        self._sampler.tell(trial.number, trial.params, values)

    def _tell_duplicate(self, number: int) -> None:
        self.store.tell(number)
        self._tell(self._trials[number])

    def _abort_on_repeated_errors(self, job: Job, outcome: Outcome) -> None:
        self._abort_if_hopeless(job.trial)
        if isinstance(outcome, Failed) and outcome.kind != "invalid":
            self._errors_in_a_row.append(outcome.reason)
        else:
            self._errors_in_a_row = []
        last = self._errors_in_a_row[-IDENTICAL_ERRORS_IN_A_ROW:]
        if len(last) == IDENTICAL_ERRORS_IN_A_ROW and len(set(last)) == 1:
            raise SearchAborted(
                f"{len(last)} trials in a row failed alike, the last being {job.trial}: {last[0]}; "
                "`automerge status` shows the tracebacks"
            )

    def _abort_if_hopeless(self, number: int) -> None:
        """A base or a source that cannot be scored makes every comparison void."""
        trial, failure = self._trials[number], self._ended[number]
        if failure is not None and trial.origin in ("base", "source"):
            raise SearchAborted(
                f"{trial.name!r} itself could not be scored ({failure.kind}): "
                f"{failure.reason}; mend that and start again with another --out"
            )

    # Select and test

    def _select(self) -> None:
        shortlist = self.shortlist()
        self.store.put_meta(shortlist=shortlist)
        self._measure("select", [*self.baselines(), *shortlist])

    def _test(self) -> None:
        front = self.front()
        self.store.put_meta(front=front)
        self._measure("test", sorted({*self.baselines(), *front}))

    def baselines(self) -> list[int]:
        """Base, sources and uniform average, as far as the budget reached them."""
        return [n for n, t in self._trials.items() if t.origin in BASELINES and self._measured(n)]

    def shortlist(self) -> list[int]:
        """The merges measured on select items: greedily the most hypervolume on search items."""
        numbers = [
            number
            for number, trial in self._trials.items()
            if trial.origin not in BASELINES
            and number not in self._duplicate_of
            and self._measured(number)
        ]
        if not numbers:
            return []
        self._values = {n: self._board.estimates(at) for n, at in self._on_board.items()}
        self._front = {}
        for number in self._values:
            self._join_front(number)
        reference = pareto.reference_point(self._rows([*self.baselines(), *numbers]))
        rows = self._rows(numbers)
        chosen = pareto.greedy_subset(rows, min(self.plan.shortlist, len(rows)), reference)
        return sorted(numbers[int(i)] for i in chosen)

    def front(self) -> list[int]:
        """What nothing measured on select items dominates: merges, and maybe baselines."""
        objectives = self.plan.objectives
        rivals = {*(self.store.meta("shortlist") or ()), *self.baselines()}
        values = {
            number: losses(objectives, estimates(objectives, outcome.scores))
            for number, outcome in sorted(self.store.outcomes("select").items())
            if isinstance(outcome, Measured) and number in rivals
        }
        if not values:
            return []
        keep = pareto.nondominated(np.array(list(values.values())))
        return [number for number, kept in zip(values, keep, strict=True) if kept]

    def _measure(self, part: Part, numbers: Sequence[int]) -> None:
        done = dict(self.store.each_outcome(part))
        self._failed[part] = sum(isinstance(outcome, Failed) for outcome in done.values())
        waiting = [self._trials[n] for n in numbers if n not in done]
        self._done, total = len(done), len(numbers)
        while (waiting and not self._stop()) or self._in_flight:
            while waiting and not self._stop() and self._free():
                self._submit(waiting.pop(0), part)
            self._collect(part, total)

    # Shared

    def _free(self) -> bool:
        return len(self._in_flight) < self._ready_executor().slots

    def _ready_executor(self) -> Executor:
        if self._executor is None:
            self._executor = self._start_executor()
        return self._executor

    def _submit(self, trial: Trial, part: Part) -> None:
        items = self.plan.items[part]
        if part == "search":
            shares = 1 if trial.origin == "sampler" else BASELINE_SHARES
            items = self.plan.draw.draw(items, trial.number, shares)
        job = Job(trial.number, trial.recipe, part, items)
        self._in_flight[trial.number] = job
        self._ready_executor().submit(job)

    def _collect(self, part: Part, total: int) -> None:
        finished = self._ready_executor().next_finished(timeout_s=0.5)
        if finished is None:
            return
        job, outcome = finished
        if self._in_flight.pop(job.trial, None) is None:
            return  # a late answer of a worker that was given up
        if part == "search":
            self._finish(job, outcome)
        else:
            self.store.record(job, outcome)
            self._done += 1
            self._failed[part] += isinstance(outcome, Failed)
        self._watch(part, self._describe(job, outcome), total)

    def _measured(self, number: int) -> bool:
        return number in self._values

    def _rows(self, numbers: Sequence[int]) -> NDArray[np.float64]:
        """Search losses, shape (trials, objectives)."""
        return np.array([losses(self.plan.objectives, self._values[n]) for n in numbers])

    def _describe(self, job: Job, outcome: Outcome) -> str:
        name = self._trials[job.trial].name
        if isinstance(outcome, Failed):
            return f"{name} failed ({outcome.kind}): {outcome.reason}"
        values = estimates(self.plan.objectives, outcome.scores)
        return f"{name}  " + "  ".join(f"{k} {v.value:.3f}" for k, v in values.items())

    def _watch(self, part: Part, last: str, total: int) -> None:
        self._observer.update(
            Snapshot(
                phase=part,
                done=len(self._ended) if part == "search" else self._done,
                total=total,
                running=len(self._in_flight),
                slots=self._ready_executor().slots,
                failed=self._failed[part],
                front=tuple(
                    (self._trials[n].name, tuple(v.value for v in self._values[n].values()))
                    for n in self._front
                ),
                last=last,
            )
        )
