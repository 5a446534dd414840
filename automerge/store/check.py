"""How the rows of a store must relate to each other, checked once when the store is opened.

Digests reveal damage; they do not stop tampering, since anyone can compute them. After this check,
every reader may rely on types, limits and references.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from automerge.constraint import Constraint
from automerge.errors import StateError
from automerge.layer_faults import expert_faults, mixture_faults, slice_faults
from automerge.objective import MODEL_TASK, goals, searched
from automerge.recipe import BASE, Recipe
from automerge.store.file import refusal
from automerge.store.record import KEYS, Inputs, StudyRecord
from automerge.store.schema import (
    ANSWERS,
    DIRECTION,
    META,
    NAME,
    NOTES,
    PARAMS,
    RECIPE,
    TIMINGS,
    misfit,
)
from automerge.trial import FailureKind, Items, Origin, Part, left_out

LARGEST = 1e15
"""The largest score or weight of an item: beyond any log-likelihood of a document."""
LATEST = 1e11
"""The latest time in Unix seconds, in the year 5138."""


def check_study(db: sqlite3.Connection, path: Path) -> None:
    """Raise StateError, naming row and column, if the content is not that of a study."""
    _Check(db, path).run()


class _Check:
    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db = db
        self._path = path
        self._study: StudyRecord | None = None
        self._inputs: Inputs | None = None
        self._table = ""
        self._row: tuple[Any, ...] = ()
        self._trials = 0
        self._duplicates: set[int] = set()
        self._left_out: dict[int, set[str]] = {}
        """The objectives that a measurement was to go without."""
        self._numbers_of: list[int] = []
        """How many numbers each trial's recipe has."""

    def run(self) -> None:
        self._facts()
        self._check_trials()
        self._check_references()
        measured = self._check_measurements()
        self._check_scores(measured)
        self._check_margins()
        self._check_answers()
        self._check_slopes(measured)
        failed = self._check_failures(measured)
        self._check_events(
            {trial for trial, part, _ in measured.values() if part == "search"}
            | {trial for trial, part in failed if part == "search"}
        )

    def _rows(self, table: str, columns: str, order: str = "") -> Any:
        self._table = table
        for row in self._db.execute(f"SELECT {columns} FROM {table} {order}"):
            self._row = row
            yield row

    def _refuse(self, column: str, problem: str) -> StateError:
        return refusal(self._path, problem, self._table, self._row, column)

    def _need(self, fits: bool, column: str, expected: str, got: object) -> None:
        if not fits:
            raise self._refuse(column, f"expected {expected}, got {str(got)[:60]!r}")

    def _json(self, kind: TypeAdapter[Any], column: str, text: str) -> Any:
        if problem := misfit(kind, text):
            raise self._refuse(column, problem)
        return json.loads(text)

    def _facts(self) -> None:
        found: dict[str, Any] = {}
        for key, value in self._rows("meta", "key, value"):
            self._need(key in META, "key", "a fact of a study", key)
            found[key] = self._json(META[key], "value", value)
        present = [key for key in KEYS if key in found]
        if not present:
            return
        self._row = ("begun",)
        self._need(len(present) == len(KEYS), "value", " and ".join(KEYS), present)
        for text in found["current"]["config"].get("constraints", ()):
            try:
                Constraint.parse(text)
            except ValueError as error:
                self._row = ("current",)
                raise self._refuse("value", f"config.constraints: {error}") from error
        self._study = StudyRecord.from_plain(found)
        self._inputs = self._study.begun.inputs
        self._check_inputs(self._inputs)

    def _check_inputs(self, inputs: Inputs) -> None:
        names = [objective.name for objective in inputs.objectives]
        self._need(len(set(names)) == len(names), "value", "distinct names", names)
        self._need(bool(goals(inputs.objectives)), "value", "an objective that is a goal", "none")
        plain = {o.name for o in inputs.objectives if not o.members}
        for objective in inputs.objectives:
            fits = plain.issuperset(objective.members)
            self._need(fits, "value", "a group of objectives", objective.name)
        for part, items in _parts(inputs):
            for task, docs in items.items():
                fits = len(set(docs)) == len(docs)
                self._need(fits, "value", f"distinct items of {part}", task)
                clusters = inputs.clusters.get(task)
                fits = clusters is None or max(docs, default=-1) < len(clusters)
                self._need(fits, "value", "items that have a cluster", task)
            for task in (task for tasks in inputs.members.values() for task in tasks):
                self._need(task in items, "value", f"a task of {part}", task)

    def _check_references(self) -> None:
        """Check facts that name trials or objectives of the study."""
        if self._study is None:
            return
        self._table = "meta"
        known = range(self._trials)
        decided, objectives = self._study.decided, self._objectives
        self._row = ("decided",)
        for number in (*decided.shortlist, *decided.baselines, *(decided.front or ())):
            fits = number in known and number not in self._duplicates
            self._need(fits, "value", "trials", number)
        for number, values in decided.believed.items():
            self._need(number in known, "value", "trials", number)
            fits = set(values) == self._searched
            self._need(fits, "value", "the objectives that are searched", sorted(values))
        self._row = ("current",)
        for constraint in self._study.current.constraints:
            name = constraint.objective
            self._need(name in objectives, "value", "a constraint on an objective", name)

    @property
    def _objectives(self) -> set[str]:
        return set() if self._inputs is None else {o.name for o in self._inputs.objectives}

    @property
    def _searched(self) -> set[str]:
        """The objectives that are measured before the test."""
        return (
            set() if self._inputs is None else {o.name for o in searched(self._inputs.objectives)}
        )

    def _measured_ones(self, names: set[str]) -> set[str]:
        """The objectives that have scores of their own: all but groups."""
        groups = (
            set()
            if self._inputs is None
            else {o.name for o in self._inputs.objectives if o.members}
        )
        return names - groups

    def _check_trials(self) -> None:
        models = None if self._study is None else {BASE, *self._study.current.sources}
        ids: list[str] = []
        n_goals = len(goals(self._inputs.objectives)) if self._inputs else None
        columns = "number, origin, name, recipe_id, recipe, params, duplicate_of, slopes, direction"
        for number, origin, name, recipe_id, text, params, of, slopes, direction in self._rows(
            "trials", columns, "ORDER BY number"
        ):
            self._need(number == len(ids), "number", f"trial {len(ids)}", number)
            self._need(origin in get_args(Origin), "origin", "an origin", origin)
            if problem := misfit(NAME, json.dumps(name)):
                raise self._refuse("name", problem)
            recipe = self._recipe(text)
            self._need(recipe.id == recipe_id, "recipe_id", recipe.id, recipe_id)
            strange = None if models is None else set(recipe.models) - models
            self._need(not strange, "recipe", "models of the study", strange)
            if params is not None:
                self._json(PARAMS, "params", params)
            if of is not None:
                fits = 0 <= of < number and of not in self._duplicates and ids[of] == recipe_id
                self._need(fits, "duplicate_of", "an earlier trial with this recipe", of)
                self._duplicates.add(number)
            self._need(0 <= slopes <= 1, "slopes", "a share of a candidate's items", slopes)
            if direction is not None:
                weights = self._json(DIRECTION, "direction", direction)
                fits = n_goals in (None, len(weights)) and abs(sum(weights) - 1) < 1e-6
                self._need(fits, "direction", "weights of the goals that sum to 1", weights[:5])
            ids.append(recipe_id)
            self._numbers_of.append(len(recipe.coordinates))
        self._trials = len(ids)

    def _recipe(self, text: str) -> Recipe:
        plain = self._json(RECIPE, "recipe", text)
        try:
            recipe = Recipe.from_plain(plain)
        except (ValueError, OverflowError) as error:
            raise self._refuse("recipe", str(error)) from error
        found = (*slice_faults(recipe), *mixture_faults(recipe), *expert_faults(recipe))
        for _, problem in found:
            raise self._refuse("recipe", problem)
        return recipe

    def _trial(self, number: int) -> None:
        self._need(0 <= number < self._trials, "trial", "a trial of the study", number)

    def _check_events(self, ended: set[int]) -> None:
        asked = 0
        told: set[int] = set()
        for _, kind, trial, at in self._rows("events", "seq, kind, trial, at", "ORDER BY seq"):
            self._need(kind in ("ask", "tell"), "kind", "ask or tell", kind)
            self._need(0 <= at <= LATEST, "at", "Unix seconds", at)
            if kind == "ask":
                self._need(trial == asked, "trial", f"trial {asked}", trial)
                asked += 1
            else:
                self._need(0 <= trial < asked and trial not in told, "trial", "one not told", trial)
                fits = trial in ended or trial in self._duplicates
                self._need(fits, "trial", "a trial with an outcome", trial)
                told.add(trial)
        if asked != self._trials:
            raise refusal(self._path, f"{self._trials} trials, but {asked} were asked for")

    def _check_measurements(self) -> dict[int, tuple[int, str, int]]:
        found: dict[int, tuple[int, str, int]] = {}
        blocks: dict[tuple[int, str], int] = {}
        columns = "id, trial, part, block, timings, tokens, notes, at"
        order = "ORDER BY trial, part, block"
        for row in self._rows("measurements", columns, order):
            measurement, trial, part, block, timings, tokens, notes, at = row
            self._trial(trial)
            self._need(trial not in self._duplicates, "trial", "no duplicate", trial)
            self._need(part in get_args(Part), "part", "a part", part)
            expected = blocks.get((trial, part), 0)
            fits = block == expected and (part in ("select", "explain") or block == 0)
            self._need(fits, "block", f"block {expected}", block)
            blocks[trial, part] = block + 1
            self._json(TIMINGS, "timings", timings)
            self._need(0 <= tokens < 2**53, "tokens", "a number of tokens", tokens)
            left = set(left_out(self._json(NOTES, "notes", notes)))
            self._need(0 <= at <= LATEST, "at", "Unix seconds", at)
            found[measurement] = trial, part, block
            if left:
                known = not self._objectives or left < self._objectives
                self._need(known and part == "search", "notes", "some of the objectives", left)
                self._left_out[measurement] = left
        return found

    def _check_scores(self, measured: Mapping[int, tuple[int, str, int]]) -> None:
        pools = self._pools()
        alike: dict[tuple[str, int, str, str], bytes] = {}
        objectives = () if self._inputs is None else self._inputs.objectives
        exact = {objective.name for objective in objectives if objective.is_exact}
        known = self._measured_ones(self._objectives)
        weighted: dict[str, bool] = {}
        seen: dict[int, set[str]] = {}
        columns = "measurement, objective, task, ids, item_values, weights"
        for measurement, objective, task, ids, values, weights in self._rows("scores", columns):
            self._need(measurement in measured, "measurement", "a measurement", measurement)
            self._need(not known or objective in known, "objective", "an objective", objective)
            n = len(ids) // 4
            self._need(len(ids) == 4 * n > 0, "ids", "int32 numbers", f"{len(ids)} bytes")
            self._numbers("item_values", values, n, -LARGEST)
            has_weights = weighted.setdefault(objective, weights is not None)
            self._need(has_weights == (weights is not None), "weights", "all or none", "both")
            if weights is not None:
                self._numbers("weights", weights, n, np.finfo(np.float64).tiny)
            _, part, block = measured[measurement]
            docs = np.frombuffer(ids, dtype="<i4")
            if objective in exact:
                fits = n == 1 and task == MODEL_TASK
                self._need(fits, "ids", "one number for the model itself", n)
            elif pools is not None:
                self._check_items(pools.get((part, task)), docs)
                if part != "search":
                    same = alike.setdefault((part, block, objective, task), ids) == ids
                    self._need(same, "ids", "the items every model has", "others")
            if len(np.unique(docs)) < n:
                raise self._refuse("ids", "an item comes twice")
            seen.setdefault(measurement, set()).add(objective)
        self._table = "measurements"
        for measurement, (_, part, block) in measured.items():
            self._row = (measurement,)
            own = seen.get(measurement, set())
            if part == "explain":
                self._need(not own, "id", "slopes only", sorted(own))
                continue
            needed = known if part == "test" else self._measured_ones(self._searched)
            lacking = sorted(needed - own - self._left_out.get(measurement, set()))
            self._need(block > 0 or not lacking, "id", "scores of every objective", lacking)

    def _check_margins(self) -> None:
        for n, margins in self._of_scored("margins", "item_margins"):
            self._numbers("item_margins", margins, n, -LARGEST)

    def _check_answers(self) -> None:
        for n, texts in self._of_scored("answers", "texts"):
            found = self._json(ANSWERS, "texts", texts)
            self._need(len(found) == n, "texts", f"{n} texts", len(found))

    def _of_scored(self, table: str, column: str) -> Iterator[tuple[int, Any]]:
        """Yield how many items, all with a score, each row of a table has, and one column."""
        scored = "SELECT measurement, objective, task, ids AS scored FROM scores"
        joined = f"{table} LEFT JOIN ({scored}) USING (measurement, objective, task)"
        columns = f"measurement, objective, task, ids, {column}, scored"
        self._table = table
        for row in self._db.execute(f"SELECT {columns} FROM {joined}"):
            self._row = row
            *_, ids, content, of = row
            n = len(ids) // 4
            self._need(len(ids) == 4 * n > 0, "ids", "int32 numbers", f"{len(ids)} bytes")
            docs = np.frombuffer(ids, dtype="<i4")
            fits = of is not None and np.isin(docs, np.frombuffer(of, dtype="<i4")).all()
            self._need(bool(fits), "ids", "items that have a score", docs[:5].tolist())
            if len(np.unique(docs)) < n:
                raise self._refuse("ids", "an item comes twice")
            yield n, content

    def _check_slopes(self, measured: Mapping[int, tuple[int, str, int]]) -> None:
        known = self._objectives
        columns = "measurement, objective, loss, numbers, derivatives"
        for measurement, objective, loss, numbers, derivatives in self._rows("slopes", columns):
            self._need(measurement in measured, "measurement", "a measurement", measurement)
            self._need(not known or objective in known, "objective", "an objective", objective)
            self._need(abs(loss) <= LARGEST, "loss", f"a number up to {LARGEST:g}", loss)
            n = len(numbers) // 4
            self._need(len(numbers) == 4 * n, "numbers", "int32 numbers", f"{len(numbers)} bytes")
            at = np.frombuffer(numbers, dtype="<i4")
            trial, *_ = measured[measurement]
            fits = bool(((at >= 0) & (at < self._numbers_of[trial])).all())
            self._need(fits and len(np.unique(at)) == n, "numbers", "numbers of the recipe", at[:5])
            self._numbers("derivatives", derivatives, n, -LARGEST)

    def _pools(self) -> dict[tuple[str, str], NDArray[np.bool_]] | None:
        """Return which items each part of the split has; None if the study has not begun."""
        if self._inputs is None:
            return None
        pools: dict[tuple[str, str], NDArray[np.bool_]] = {}
        for part, items in _parts(self._inputs):
            for task, docs in items.items():
                if max(docs, default=0) > 10**8:
                    self._table, self._row = "meta", ("begun",)
                    raise self._refuse("value", f"an item of {task!r} beyond any data set")
                pool = np.zeros(max(docs, default=-1) + 1, dtype=np.bool_)
                pool[list(docs)] = True
                pools[part, task] = pool
        return pools

    def _check_items(self, pool: NDArray[np.bool_] | None, docs: NDArray[np.int32]) -> None:
        fits = pool is not None and docs.min() >= 0 and docs.max() < len(pool) and pool[docs].all()
        self._need(bool(fits), "ids", "items of this part and task", docs[:5].tolist())

    def _numbers(self, column: str, content: bytes, n: int, least: float) -> None:
        self._need(len(content) == 8 * n, column, f"{8 * n} bytes", f"{len(content)} bytes")
        numbers = np.frombuffer(content, dtype="<f8")
        fits = bool(((numbers >= least) & (numbers <= LARGEST)).all())
        self._need(fits, column, f"numbers of {least:g} to {LARGEST:g}", numbers[:5].tolist())

    def _check_failures(self, measured: Mapping[int, tuple[int, str, int]]) -> set[tuple[int, str]]:
        done = {(t, part) for t, part, _ in measured.values() if part in ("search", "test")}
        found: set[tuple[int, str]] = set()
        for trial, part, kind, at in self._rows("failures", "trial, part, kind, at"):
            self._trial(trial)
            self._need(trial not in self._duplicates, "trial", "no duplicate", trial)
            self._need(part in get_args(Part), "part", "a part", part)
            self._need(kind in get_args(FailureKind), "kind", "a kind of failure", kind)
            self._need(0 <= at <= LATEST, "at", "Unix seconds", at)
            self._need((trial, part) not in done, "part", "one that gave no scores", part)
            found.add((trial, part))
        return found


def _parts(inputs: Inputs) -> Iterator[tuple[Part, Items]]:
    """Yield the items of each part, including sealed ones."""
    yield "search", inputs.items.search
    yield "select", inputs.items.select
    yield "test", inputs.items.test.for_files()
