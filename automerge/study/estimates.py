"""Estimates of a search's trials: values, constraint violations, the front."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from automerge import pareto
from automerge.constraint import Bound, Constraint, bounds
from automerge.errors import SearchAborted
from automerge.estimation.gate import ERRORS, LEVEL
from automerge.estimation.intervals import interval
from automerge.estimation.scoreboard import Scoreboard
from automerge.objective import (
    EXTREMES,
    Estimate,
    ItemScores,
    Objective,
    estimates,
    goals,
    losses,
    of_members,
)
from automerge.samplers.base import Members, Slopes, Told
from automerge.space import Space
from automerge.study.watch import Scored
from automerge.trial import (
    BASELINES,
    PARENTS,
    Failed,
    Gate,
    Items,
    Limit,
    Measured,
    Outcome,
    Params,
    Slope,
    Steering,
    Trial,
    answers_to_follow,
    parent_names,
)

PENALTY = 2.0
"""Added to each loss, in ranges of it, for a violation as large as the baselines' range."""


class Estimates:
    """Values estimated from search items, each using all measurements before it."""

    def __init__(
        self,
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint],
        pool: Mapping[str, Sequence[tuple[str, int]]],
        space: Space,
        n_sources: int = 0,
    ) -> None:
        """Begin without trials; values of relative groups wait until all sources have ended."""
        self._objectives = objectives
        self._groups = [o for o in objectives if o.members]
        self._lacking = n_sources if any(o.relative for o in objectives) else 0
        self._held: list[tuple[Trial, Measured]] = []
        self._sources: list[int] = []
        self._experts: dict[str, float] = {}
        """The value of the best source, by member of a relative group."""
        self._constraints = constraints
        self._space = space
        self._board = Scoreboard([o for o in objectives if not o.members], pool)
        self._on_board: dict[int, int] = {}
        self._baselines: dict[int, Trial] = {}
        self._scored: dict[str, Mapping[str, ItemScores]] = {}
        """The item scores of baselines by name."""
        self._answered: dict[int, Measured] = {}
        """Parents that generated right answers."""
        self.ended: dict[int, Failed | None] = {}
        """How each measurement ended; None with scores, which stay in the store."""
        self.failed = 0
        self.values: dict[int, dict[str, Estimate]] = {}
        """Of the trials that were measured on every objective; no others can be chosen."""
        self.front: dict[int, tuple[float, ...]] = {}
        """Losses of the trials that satisfy the constraints and are nondominated."""
        self.told: dict[int, Told] = {}
        """What a sampler is told for each trial, as of when the trial was entered."""

    @property
    def ready(self) -> bool:
        """Whether values can be told: the sources that units come from have been measured."""
        return self._lacking == 0

    def enter(self, trial: Trial, outcome: Outcome) -> None:
        """Estimate a trial's values from its items and all earlier measurements."""
        if isinstance(outcome, Failed):
            self.ended[trial.number] = outcome
            self.failed += 1
            return
        self.ended[trial.number] = None
        if not self.ready:
            self._hold(trial, outcome)
            return
        if outcome.left_out:
            # Not on the board: which trials are measured in part depends on what they scored.
            found = estimates(self._objectives, outcome.scores)
            found |= {o.name: of_members(o, found, self._experts) for o in self._groups}
            self.told[trial.number] = self._told(trial, found, {})
            return
        self._place(trial, outcome)
        self._evaluate(trial, outcome)

    def _hold(self, trial: Trial, outcome: Measured) -> None:
        """Keep a trial until all sources have been measured, then evaluate all that are kept."""
        self._held.append((trial, outcome))
        self._lacking -= trial.origin == "source"
        if self.ready:
            for held in self._held:
                self._place(*held)
            self._choose_experts()
            for held in self._held:
                self._evaluate(*held)

    def _place(self, trial: Trial, outcome: Measured) -> None:
        """Put a trial on the board."""
        position = None if trial.params is None else self._space.position(trial.params)
        self._on_board[trial.number] = self._board.add(
            position,
            outcome.scores,
            outcome.margins,
            is_parent=trial.origin in PARENTS,
        )
        if outcome.answers:
            self._answered[trial.number] = outcome
        if trial.origin == "source":
            self._sources.append(trial.number)

    def _evaluate(self, trial: Trial, outcome: Measured) -> None:
        """Estimate the values of a trial that is on the board."""
        self.values[trial.number] = self._estimated(trial.number)
        if trial.origin in BASELINES:
            self._baselines[trial.number] = trial
            self._scored[trial.name] = outcome.scores
        values = self.values[trial.number]
        self.told[trial.number] = self._told(trial, values, outcome.slopes)
        self._join_front(trial.number)

    def renew(self) -> None:
        """Estimate everything again from all measurements."""
        self._board.settle()
        if self.ready:
            self._choose_experts()
        self.values = {n: self._estimated(n) for n in self._on_board}
        self.front = {}
        for number in self.values:
            self._join_front(number)

    def _estimated(self, number: int) -> dict[str, Estimate]:
        """Return a trial's values by objective, in the study's order."""
        found = self._board.estimates(self._on_board[number])
        found |= {o.name: of_members(o, found, self._experts) for o in self._groups}
        return {o.name: found[o.name] for o in self._objectives}

    def _choose_experts(self) -> None:
        """Choose the best source for each member of a relative group.

        Raises:
            SearchAborted: none scores above 0, so that nothing can be divided by it.
        """
        by_name = {o.name: o for o in self._objectives}
        for name in dict.fromkeys(m for o in self._groups if o.relative for m in o.members):
            values = [self._board.estimates(self._on_board[n])[name].value for n in self._sources]
            best = min(values, key=by_name[name].loss)
            if not best > 0:
                raise SearchAborted(
                    f"the best source scores {best:g} on {name}: a relative group divides by it, "
                    "so it has to be above 0; remove `relative` from the group, or the task"
                )
            self._experts[name] = best

    def steering(self, items: Items) -> Steering:
        """What losses on some items are made from: temperatures, and parents' right answers.

        A leaf task's temperature is in the unit of its first objective's margins.
        """
        temperatures: dict[str, float] = {}
        for (_, task), temperature in self._board.temperatures.items():
            temperatures.setdefault(task, temperature)
        wanted = {(task, doc) for task, ids in items.items() for doc in ids}
        answers = {
            name: {item: text for item, text in own.items() if item in wanted}
            for name, own in answers_to_follow(self._answered).items()
        }
        return Steering(temperatures, {name: own for name, own in answers.items() if own})

    def gate(self, first: tuple[str, ...], cheap: Collection[str]) -> Gate | None:
        """Return what excludes a trial after its first leaf tasks; None where nothing does yet.

        A limit that refers to a model is loosened by what that model's value may be wrong by.
        """
        limits = []
        for bound in self._bounds():
            name, relation = bound.constraint.objective, bound.constraint.relation
            if name in cheap:
                below, above = self._doubt(bound.model, name)
                value = bound.value + above if relation == "<=" else bound.value - below
                limits.append(Limit(name, relation, value))
        return Gate(first, tuple(limits)) if limits and len(self.values) > 1 else None

    def _doubt(self, model: str | None, objective: str) -> tuple[float, float]:
        """Return how far below and above its value a baseline's true value may be.

        Errors of the value alone would say too little where nearly all items score the same: a
        model that answered 120 of 120 items may well be wrong on one in thirty.
        """
        numbers = {trial.name: number for number, trial in self._baselines.items()}
        if model not in numbers:
            return 0.0, 0.0
        error = ERRORS * self.values[numbers[model]][objective].stderr
        own = self._scored[model].get(objective)
        if own is None:  # a group has its members' items
            return error, error
        [aggregation] = (o.aggregation for o in self._objectives if o.name == objective)
        found = interval(own, aggregation, LEVEL)
        return max(error, found.value - found.low), max(error, found.high - found.value)

    def losses(self, numbers: Iterable[int], errors: float = 0.0) -> NDArray[np.float64]:
        """Return values to minimise, this many standard `errors` worse: (trials, objectives)."""
        searched = goals(self._objectives)
        return np.array(
            [
                [
                    o.loss(self.values[n][o.name].value) + errors * self.values[n][o.name].stderr
                    for o in searched
                ]
                for n in numbers
            ]
        )

    def front_values(self, trials: Mapping[int, Trial]) -> Scored:
        """Return names and values of the trials on the front."""
        return tuple(
            (trials[n].name, tuple(v.value for v in self.values[n].values())) for n in self.front
        )

    def parent_values(self, trials: Mapping[int, Trial]) -> Scored:
        """Return names and values of base and sources."""
        return tuple(
            (trials[n].name, tuple(v.value for v in values.values()))
            for n, values in self.values.items()
            if trials[n].origin in PARENTS
        )

    def _told(
        self, trial: Trial, measured: Mapping[str, Estimate], found: Mapping[str, Slope]
    ) -> Told:
        """Return losses with their errors, increased by the trial's constraint violations.

        An exact penalty: feasible trials keep their losses. What was not measured may be anything
        that trials have scored. Slopes of sizes are 0.
        """
        searched = goals(self._objectives)
        known = tuple(measured[o.name].n > 0 for o in searched)
        values = {n: v if v.n > 0 else self._any(n) for n, v in measured.items()}
        own_slopes, slopes = self._slopes(trial.params, found), None
        if own_slopes:
            flat = Slopes(0.0, {role: 0.0 for own in own_slopes.values() for role in own.by_role})
            slopes = tuple(own_slopes.get(o.name, flat if o.is_size else None) for o in searched)
        errors = tuple(values[objective.name].stderr for objective in searched)
        own = losses(self._objectives, values)
        missed = self._missed(measured)
        partly = None if all(known) else known
        members = self._members(measured, own_slopes)
        if not missed:
            return Told(own, errors, slopes, partly, members)
        ranges = (self._range(objective.name) for objective in searched)
        penalised = (x + PENALTY * missed * s for x, s in zip(own, ranges, strict=True))
        return Told(tuple(penalised), errors, slopes, partly, members)

    def _members(
        self, measured: Mapping[str, Estimate], slopes: Mapping[str, Slopes]
    ) -> tuple[Members | None, ...]:
        """Return what is known of the members of each goal; nothing where no goal is a group."""
        searched = goals(self._objectives)
        if not any(o.members for o in searched):
            return ()
        return tuple(
            Members(
                tuple(group.loss(measured[m].value) / self._unit(group, m) for m in group.members),
                tuple(measured[m].stderr / self._unit(group, m) for m in group.members),
                group.aggregation in EXTREMES,
                tuple(slopes.get(m) for m in group.members) if slopes else None,
            )
            if group.members
            else None
            for group in searched
        )

    def _unit(self, group: Objective, member: str) -> float:
        """Return what a member's values are divided by in a group."""
        return self._experts[member] if group.relative else 1.0

    def _any(self, objective: str) -> Estimate:
        """Return the mean and the standard deviation of the values of all trials."""
        values = np.array([own[objective].value for own in self.values.values()])
        return Estimate(float(values.mean()), float(values.std()), 0)

    def _slopes(self, params: Params | None, found: Mapping[str, Slope]) -> dict[str, Slopes]:
        """Return objectives' slopes in the space's parameters; none without parameters."""
        if params is None:
            return {}
        return {
            name: Slopes(slope.loss, self._space.pull_back(params, slope.by))
            for name, slope in found.items()
        }

    def missed(self, number: int, errors: float = 0.0) -> float:
        """Return the sum of a trial's violations, each in ranges of the baselines' values.

        Violations within this many standard `errors` of the estimate do not count.
        """
        return self._missed(self.values[number], errors)

    def _missed(self, own: Mapping[str, Estimate], errors: float = 0.0) -> float:
        total = 0.0
        for bound in self._bounds():
            name = bound.constraint.objective
            if not own[name].n:
                continue  # not measured, since another one is missed
            shortfall = bound.shortfall(own[name].value) - errors * own[name].stderr
            total += max(shortfall, 0.0) / self._range(name)
        return total

    def compromise(self, number: int) -> float:
        """Return a trial's mean loss in ranges of the baselines' values, one error worse."""
        ranges = [self._range(objective.name) for objective in goals(self._objectives)]
        (worse,) = self.losses([number], errors=1.0)
        total: float = sum(x / s for x, s in zip(worse.tolist(), ranges, strict=True))
        return total / max(len(ranges), 1)

    def _bounds(self) -> list[Bound]:
        """Return the constraints whose references are measured."""
        values = {t.name: self.values[n] for n, t in self._baselines.items()}
        parents = parent_names(self._baselines.values())
        return bounds(self._constraints, self._objectives, values, parents)

    def _range(self, objective: str) -> float:
        values = [self.values[n][objective].value for n in self._baselines]
        return (max(values) - min(values) if values else 0.0) or 1.0

    def _join_front(self, number: int) -> None:
        """Update the front without comparing all trials with all again."""
        row = losses(self._objectives, self.values[number])
        others = self.front.items()
        if (
            all(map(math.isfinite, row))
            and not self.missed(number)
            and not any(pareto.dominates(other, row) for _, other in others)
        ):
            kept = {n: other for n, other in others if not pareto.dominates(row, other)}
            self.front = {**kept, number: row}
