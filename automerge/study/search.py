"""The search: ask, measure, record, tell."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from automerge.errors import SearchAborted, StateError
from automerge.recipe import Recipe
from automerge.samplers.base import Remarking, Sampler
from automerge.space import Space
from automerge.study.context import Context
from automerge.study.estimates import Estimates
from automerge.study.limits import Spent, allows, expected_trials
from automerge.study.patience import Patience
from automerge.study.watch import Snapshot, described, scored
from automerge.trial import (
    CANDIDATES,
    NO_ROOM,
    PARENTS,
    Failed,
    Gate,
    Job,
    Measured,
    Outcome,
    Trial,
    proposed_name,
)

DUPLICATES_IN_A_ROW = 100
"""This many proposals in a row that were already measured mean that the space is exhausted."""

IDENTICAL_ERRORS_IN_A_ROW = 3


class Search:
    """Runs the search of one study from where the store says the last run stopped."""

    def __init__(self, context: Context, space: Space, sampler: Sampler) -> None:
        self._store = store = context.store
        self._plan = plan = context.plan
        self._dispatcher = context.dispatcher
        self._observer = context.observer
        self._stop = context.stop
        self._space = space
        self._sampler = sampler
        self.trials = {trial.number: trial for trial in store.trials()}
        self.estimates = Estimates(
            plan.objectives, plan.constraints, plan.pool, space, plan.n_sources
        )
        self._waiting: list[Trial] = []
        """Trials that are not told yet, since the units of relative groups are not known."""
        self._duplicate_of = store.duplicates()
        self._sharing: dict[int, list[int]] = {}
        for number, original in self._duplicate_of.items():
            self._sharing.setdefault(original, []).append(number)
        self._by_recipe: dict[str, int] = {}
        self._price, self._items = 0.0, 0
        for number, trial in self.trials.items():
            self._by_recipe.setdefault(trial.recipe.id, number)
            if number not in self._duplicate_of:
                self._charge(trial)
        self._measured_s = 0.0
        self._measured_items = 0
        self._arrived: dict[int, Outcome] = {}
        self._errors_in_a_row: list[str] = []
        self._patience = Patience(plan.limits.patience)
        self._exhausted = False
        self._said = False
        """Whether it was said that slopes do not fit into memory."""
        self._searched_s = store.searched_s()

    @property
    def favourites(self) -> Sequence[int]:
        """The trials that the sampler takes for the best compromises, the best first."""
        return self._sampler.favourites()

    def run(self) -> None:
        """Search until a limit is reached, the space is exhausted, or it is stopped."""
        self._started = time.monotonic()
        self._replay()
        for number in self.estimates.ended:
            self._abort_if_hopeless(number)
        for trial in self._unfinished():
            self._submit(trial)
        self._fill()
        self._settle()
        while self._dispatcher.running:
            if self._stop():
                self._dispatcher.withdraw()
            if (finished := self._dispatcher.collect()) is None:
                self._fill()
                continue
            job, outcome = finished
            in_order = self._plan.window is not None
            now_s = self._elapsed_s
            self._store.record(job, outcome, tell=not in_order, searched_s=now_s)
            self._arrived[job.trial] = outcome
            self._settle()
            self._watch(job, outcome)
        if not self._stop():
            self._conclude()

    def _conclude(self) -> None:
        """Say why the search ended early, and what its sampler has to say of it; keep both."""
        remarks: list[str] = []
        if self._patience.is_exhausted:
            n = len(self.trials) - len(self._duplicate_of)
            remarks.append(
                f"the search ended early, after {n} trials: none of the last "
                f"{self._plan.limits.patience} proposals was better, beyond errors, than all that "
                "was measured before them (patience)"
            )
        if isinstance(self._sampler, Remarking):
            remarks += self._sampler.remarks()
        for remark in remarks:
            self._observer.note(remark)
        decided = self._store.study.decided
        if decided.remarks != tuple(remarks):
            self._store.decide(replace(decided, remarks=tuple(remarks)))

    def _settle(self) -> None:
        """Tell what has arrived and ask again after each; under a window, in the order asked.

        So what a proposal knows depends on how many trials are in flight, never on which of them
        came back first.
        """
        while (number := self._due()) is not None:
            self._finish(number, self._arrived.pop(number))
            self._fill()

    def _due(self) -> int | None:
        """Return the trial to tell next; None where it has not arrived.

        Under a window it is None once we are to stop: its successor must be asked for right after.
        """
        if self._plan.window is None:
            return next(iter(self._arrived), None)
        number = min(self._open(), default=None)
        return number if number in self._arrived and not self._stop() else None

    def _open(self) -> Iterator[int]:
        """Yield the trials that were asked for and not yet told."""
        return (
            n for n in self.trials if n not in self.estimates.ended and n not in self._duplicate_of
        )

    def _fill(self) -> None:
        """Ask for as many trials as there is room for."""
        while not (self._exhausted or self._stop()) and self._allowed() and self._has_room():
            if not (self._next_is_first or self.estimates.ready):
                return
            self._exhausted = not self._ask_next()

    def _has_room(self) -> bool:
        window = self._plan.window
        return self._dispatcher.free if window is None else sum(1 for _ in self._open()) < window

    def _replay(self) -> None:
        """Enter what was told, and repeat every recorded call to the sampler, in order."""
        self._check_parameters()
        events = self._store.events()
        told = {event.trial for event in events if event.kind == "tell"}
        for number, outcome in self._store.each_outcome("search"):
            if number in told:
                self._enter(number, outcome)
            else:
                self._arrived[number] = outcome
        strayed = False
        for event in events:
            trial = self.trials[event.trial]
            if event.kind == "tell":
                self._tell(trial)
            elif trial.params is not None and trial.origin == "sampler":
                strayed |= not self._sampler.repeat(trial.number, trial.params)
        if strayed:
            self._observer.note(
                "the sampler's proposals differ from those recorded (another version of a "
                "library?); the search continues from the recorded results"
            )
        for number, original in self._duplicate_of.items():
            if number not in told and original in self.estimates.ended:
                self._tell_duplicate(number)

    def _check_parameters(self) -> None:
        """Refuse recorded parameters that the space does not have."""
        for trial in self.trials.values():
            try:
                if trial.params is not None:
                    self._space.position(self._space.active(trial.params))
                    self._space.active(trial.params)
            except ValueError as error:
                raise StateError(
                    f"{self._store.path}, trial {trial.number}: its parameters are outside this "
                    f"study's search space: {error}; start again with a different --out"
                ) from error

    def _unfinished(self) -> list[Trial]:
        return [self.trials[number] for number in self._open() if number not in self._arrived]

    def _allowed(self) -> bool:
        """Return whether the limits leave room for one more trial."""
        if self._patience.is_exhausted:
            return False
        spent, limits = self._spent(), self._plan.limits
        first = self._plan.first
        origin = first[len(self.trials)].origin if self._next_is_first else "sampler"
        items, later = self._plan.n_items(origin), self._plan.n_later
        if allows(limits, spent, items, later, lambda: self._dispatcher.slots):
            return True
        reached = limits.trials is not None and spent.trials >= limits.trials
        if not self._dispatcher.running and not reached:
            self._observer.note(
                f"stopping the search after {len(self.trials)} trials; the remaining time or items "
                "are reserved for selection and test"
            )
        return False

    def _spent(self) -> Spent:
        return Spent(
            trials=round(self._price, 6),
            items=self._items,
            seconds=self._elapsed_s,
            seconds_per_item=self._measured_s / max(self._measured_items, 1),
        )

    def _charge(self, trial: Trial) -> None:
        price, items = self._plan.price(trial)
        self._price += price
        self._items += items

    @property
    def _elapsed_s(self) -> float:
        """Seconds of searching in all runs, unaffected by changes of the wall clock."""
        return self._searched_s + time.monotonic() - self._started

    @property
    def _next_is_first(self) -> bool:
        return len(self.trials) < len(self._plan.first)

    def _ask_next(self) -> bool:
        """Record and submit the next trial; return False when the space has nothing new."""
        for _ in range(DUPLICATES_IN_A_ROW):
            trial = self._next_trial()
            original = self._by_recipe.get(trial.recipe.id)
            self._store.ask(trial, duplicate_of=original)
            self.trials[trial.number] = trial
            if original is None:
                self._by_recipe[trial.recipe.id] = trial.number
                self._charge(trial)
                self._submit(trial)
                return True
            self._duplicate_of[trial.number] = original
            self._sharing.setdefault(original, []).append(trial.number)
            if original in self.estimates.ended:
                self._tell_duplicate(trial.number)
        self._observer.note(
            f"{DUPLICATES_IN_A_ROW} proposals in a row were already measured: the search space "
            "is exhausted; stopping the search"
        )
        return False

    def _next_trial(self) -> Trial:
        number = len(self.trials)
        if self._next_is_first:
            first = self._plan.first[number]
            params = self._space.params(first.recipe)
            return Trial(number, first.recipe, first.origin, first.name, params)
        if (opened := self._opening_step()) is not None:
            name, recipe = opened
            return Trial(number, recipe, "start", name, self._space.params(recipe))
        params = self._sampler.ask(number)
        return Trial(
            number,
            self._space.recipe(params),
            "sampler",
            proposed_name(number),
            params,
            self._sampler.wants_slopes(number) if self._plan.slopes else 0.0,
            self._sampler.direction(number),
        )

    def _opening_step(self) -> tuple[str, Recipe] | None:
        """Return what the opening wants measured next, by all that was told so far."""
        told = self.estimates.told
        return self._plan.opening.next(
            {trial.name for trial in self.trials.values()},
            set(self._by_recipe),
            {
                self.trials[n].recipe.id: told[n].losses if n in told else None
                for n in self.estimates.ended
            },
        )

    def _finish(self, number: int, outcome: Outcome) -> None:
        if self._plan.window is not None:
            self._store.tell(number)
        self._enter(number, outcome)
        self._tell(self.trials[number])
        for sharing in self._sharing.get(number, ()):
            self._tell_duplicate(sharing)
        self._abort_on_repeated_errors(number, outcome)

    def _enter(self, number: int, outcome: Outcome) -> None:
        self.estimates.enter(self.trials[number], outcome)
        if isinstance(outcome, Measured):
            self._measured_s += outcome.timings.total
            self._measured_items += self._plan.price(self.trials[number])[1]

    def _tell(self, trial: Trial) -> None:
        """Tell the sampler of a trial; once units are known, of all that waited for them first."""
        self._waiting.append(trial)
        while self.estimates.ready and self._waiting:
            self._tell_now(self._waiting.pop(0))

    def _tell_now(self, trial: Trial) -> None:
        told = self.estimates.told.get(self._duplicate_of.get(trial.number, trial.number))
        self._sampler.tell(trial.number, trial.params, told)
        if trial.number not in self._duplicate_of:
            self._patience.enter(told, trial.origin == "sampler")

    def _tell_duplicate(self, number: int) -> None:
        self._store.tell(number)
        self._tell(self.trials[number])

    def _abort_on_repeated_errors(self, number: int, outcome: Outcome) -> None:
        self._abort_if_hopeless(number)
        if isinstance(outcome, Failed) and outcome.kind != "invalid":
            self._errors_in_a_row.append(outcome.reason)
        else:
            self._errors_in_a_row = []
        last = self._errors_in_a_row[-IDENTICAL_ERRORS_IN_A_ROW:]
        if len(last) == IDENTICAL_ERRORS_IN_A_ROW and len(set(last)) == 1:
            raise SearchAborted(
                f"{len(last)} trials in a row failed in the same way, most recently {number}: "
                f"{last[0]}; `automerge status` shows the tracebacks"
            )

    def _abort_if_hopeless(self, number: int) -> None:
        """Stop when the base or a source cannot be scored, as nothing can then be compared."""
        trial, failure = self.trials[number], self.estimates.ended[number]
        if failure is not None and trial.origin in PARENTS:
            raise SearchAborted(
                f"{trial.name!r} itself could not be scored ({failure.kind}): "
                f"{failure.reason}; fix that and start again with a different --out"
            )

    def _submit(self, trial: Trial) -> None:
        items = self._plan.search_items(trial)
        self._dispatcher.submit(
            Job(
                trial.number,
                trial.recipe,
                "search",
                items,
                steering=self.estimates.steering(items) if trial.slopes else None,
                keep_answers=self._plan.slopes and trial.origin in PARENTS,
                gate=self._gate(trial),
            )
        )

    def _gate(self, trial: Trial) -> Gate | None:
        """Return what is measured first of a trial, and what then excludes it; None if all of it is
        measured at once."""
        whole = trial.slopes or trial.origin not in CANDIDATES
        if whole or not self._plan.first_leaves:
            return None
        return self.estimates.gate(self._plan.first_leaves, self._plan.cheap)

    def _expected(self, spent: Spent) -> int:
        """Return how many trials there will be, if those to come cost what those so far did."""
        plan, asked = self._plan, len(self.trials) - len(self._duplicate_of)
        priced = expected_trials(plan.limits, spent, plan.n_items("sampler"), plan.n_later)
        return asked + round((priced - spent.trials) * asked / max(spent.trials, 1))

    def _watch(self, job: Job, outcome: Outcome) -> None:
        if isinstance(outcome, Measured) and NO_ROOM in outcome.notes and not self._said:
            self._said = True
            self._observer.note(
                "slopes do not fit into memory beside the model: trials that were to follow them "
                "are measured without; use a larger device, fewer workers, shorter items, a "
                "smaller evaluation.dtype, or slopes: off"
            )
        spent, plan = self._spent(), self._plan
        self._observer.update(
            Snapshot(
                phase="search",
                done=len(self.estimates.ended),
                total=self._expected(spent),
                running=self._dispatcher.running,
                slots=self._dispatcher.slots,
                failed=self.estimates.failed,
                front=self.estimates.front_values(self.trials),
                last=described(plan.objectives, self.trials[job.trial], outcome),
                parents=self.estimates.parent_values(self.trials),
                later_s=plan.n_later * spent.seconds_per_item / max(self._dispatcher.slots, 1),
                values=scored(plan.objectives, outcome),
            )
        )
