"""Cheap objectives first: the same front for less, and no cell is made up."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from automerge.constraint import Constraint
from automerge.errors import StateError
from automerge.estimation.gate import surely_misses
from automerge.executors.local import LocalExecutor
from automerge.items import ItemDraw, Sealed, StudyItems
from automerge.objective import ItemScores, Objective, estimate
from automerge.samplers import SAMPLERS
from automerge.samplers.base import Told
from automerge.store.read_result import study_result
from automerge.store.store import Store
from automerge.study import Driver
from automerge.study.estimates import Estimates
from automerge.study.patience import Patience
from automerge.trial import Items, Limit, Measured, Timings, Trial
from tests.store.test_strangers import FILE, reseal
from tests.studies import FIRST, SPACE, Unwatched, toy_plan, toy_store
from tests.toy import OBJECTIVES, ToyWorker

BOUND = "first >= 0.6"
ITEMS: Items = {name: tuple(range(300)) for name in ("one", "two")}


def plan(budget: int, cheap_first: bool, bound: str = BOUND, **changes):
    """Every trial is measured on all items, so that its values are exact; `second` is dear."""
    made = toy_plan(budget)
    return replace(
        made,
        constraints=(Constraint.parse(bound),),
        items=StudyItems(ITEMS, ITEMS, Sealed(ITEMS)),
        draw=ItemDraw(made.draw.members, None, seed=0),
        dear=("second",) if cheap_first else (),
        slopes=False,
        **changes,
    )


def searched(
    folder, cheap_first, sampler="random", budget=30, seed=0, stop=lambda: False, **changes
):
    planned = plan(budget, cheap_first, **changes)
    with toy_store(folder, planned) as store:
        Driver(
            store,
            planned,
            SPACE,
            SAMPLERS[sampler](SPACE, len(OBJECTIVES), seed, budget),
            lambda: LocalExecutor(ToyWorker),
            Unwatched(),
            stop,
        ).run()
        return {
            "front": sorted(store.trials()[n].recipe.id for n in store.study.decided.front or ()),
            "shortlist": store.study.decided.shortlist,
            "outcomes": dict(store.outcomes("search")),
            "trials": store.trials(),
            "failed": store.counts()["failed"],
        }


def dear_items(found) -> int:
    return sum(len(outcome.scores["second"].items) for outcome in found["outcomes"].values())


@pytest.mark.sample(1)
@pytest.mark.parametrize("seed", range(4))
def test_the_front_is_the_same_for_fewer_dear_items(tmp_path, seed):
    whole = searched(tmp_path / "whole", False, seed=seed)
    part = searched(tmp_path / "part", True, seed=seed)
    assert [t.recipe for t in part["trials"]] == [t.recipe for t in whole["trials"]]
    assert part["front"] == whole["front"] != []
    assert part["shortlist"] == whole["shortlist"]
    left_out = [n for n, outcome in part["outcomes"].items() if outcome.left_out]
    assert len(left_out) >= 3
    assert dear_items(whole) - dear_items(part) == 300 * len(left_out)
    for number, outcome in part["outcomes"].items():
        other = whole["outcomes"][number]
        assert outcome.scores["first"] == other.scores["first"]
        if number not in left_out:
            assert outcome.scores["second"] == other.scores["second"]


@pytest.mark.parametrize(
    ("members", "first"),
    [
        ({"first": ("a", "x"), "second": ("x", "y"), "third": ("z",)}, ("z",)),
        ({"first": ("a", "x"), "second": ("y", "z"), "third": ("x", "y")}, ()),
        ({"first": ("a", "x"), "second": ("y",), "third": ("y", "z")}, ("y", "z")),
    ],
)
def test_what_shares_a_task_with_a_dear_objective_is_measured_as_late(members, first):
    made = plan(20, True)
    changed = replace(made, draw=ItemDraw(members, None, seed=0), dear=("first",))
    assert changed.first_leaves == first
    for own in members.values():
        assert set(own) <= set(first) or not set(own) & set(first)


def test_what_is_missing_is_neither_a_failure_nor_a_number(tmp_path):
    found = searched(tmp_path, True)
    left_out = [n for n, outcome in found["outcomes"].items() if outcome.left_out]
    first = {n: estimate(found["outcomes"][n].scores["first"], "mean") for n in left_out}
    assert all(value.value < 0.6 for value in first.values())
    assert found["failed"] == 0
    assert not set(left_out) & set(found["shortlist"])
    with Store(tmp_path, write=False) as store:
        result = study_result(tmp_path, store)
    for trial in result.trials:
        if trial.trial.number in left_out:
            assert trial.search_estimate(OBJECTIVES[0]) is not None
            assert trial.search_estimate(OBJECTIVES[1]) is None
            assert trial.failure is None
    [said] = [warning for warning in result.warnings if "cheap_first" in warning]
    assert said.startswith(f"{len(left_out)} trials surely missed a bound on a cheaper objective")
    assert "were not measured on second" in said


class Listening:
    """A sampler that hears what another is told."""

    def __init__(self, inner) -> None:
        self.inner, self.heard = inner, {}

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def tell(self, number, params, told) -> None:
        self.heard[number] = told
        self.inner.tell(number, params, told)


def test_a_sampler_knows_which_losses_were_not_measured(tmp_path):
    planned = plan(30, True)
    sampler = Listening(SAMPLERS["random"](SPACE, 2, 0, 30))
    with toy_store(tmp_path, planned) as store:
        args = (lambda: LocalExecutor(ToyWorker), Unwatched(), lambda: False)
        assert Driver(store, planned, SPACE, sampler, *args).run()
        outcomes = dict(store.outcomes("search"))
    whole: list[float] = []
    partly = 0
    for number, told in sampler.heard.items():
        outcome = outcomes.get(number)
        if not isinstance(outcome, Measured):
            continue
        assert told.is_finite
        if not outcome.left_out:
            assert told.known is None
            whole.append(estimate(outcome.scores["second"], "mean").value)
            continue
        partly += 1
        assert told.known == (True, False)
        mean = sum(whole) / len(whole)
        spread = math.sqrt(sum((value - mean) ** 2 for value in whole) / len(whole))
        assert told.errors[1] == pytest.approx(spread)
        # The penalty for the bound is added, as for any trial that misses it.
        assert told.losses[1] > -mean
        assert told.losses[0] > -estimate(outcome.scores["first"], "mean").value
    assert partly >= 3


@pytest.mark.sample(1)
@pytest.mark.parametrize("sampler", ["cma", "tpe", "de"])
def test_samplers_take_trials_measured_in_part(tmp_path, sampler):
    found = searched(tmp_path, True, sampler, budget=20, bound="first >= 0.75")
    assert any(outcome.left_out for outcome in found["outcomes"].values())
    assert len(found["outcomes"]) == 20
    assert found["failed"] == 0


def test_a_study_in_order_goes_on_as_if_it_had_not_stopped(tmp_path):
    straight = searched(tmp_path / "straight", True, window=1)
    asked = iter(range(10**6))
    searched(tmp_path / "twice", True, stop=lambda: next(asked) > 40, window=1)
    again = searched(tmp_path / "twice", True, window=1)
    assert [t.recipe for t in again["trials"]] == [t.recipe for t in straight["trials"]]
    assert again["front"] == straight["front"]
    left_out = [
        [n for n, outcome in found["outcomes"].items() if outcome.left_out]
        for found in (again, straight)
    ]
    assert left_out[0] == left_out[1] != []


def test_a_store_may_leave_out_some_of_its_objectives_only(tmp_path):
    searched(tmp_path, True)
    with Store(tmp_path, write=True) as store:
        db = store._db
        [(number, notes)] = [
            row
            for row in db.execute("SELECT id, notes FROM measurements WHERE part = 'search'")
            if "left_out" in row[1]
        ][:1]
        changed = json.dumps({"left_out:second": 1.0, "left_out:third": 1.0, **json.loads(notes)})
        db.execute("UPDATE measurements SET notes = ? WHERE id = ?", (changed, number))
        db.commit()
    reseal(tmp_path / FILE)
    with pytest.raises(StateError, match="some of the objectives"):
        Store(tmp_path, write=False)


def test_a_perfect_model_is_no_perfect_bound():
    """Who answered 120 of 120 items may yet miss one in thirty: a wrong answer excludes nobody."""
    objectives, n = OBJECTIVES[:1], 120
    bound = Constraint.parse("first >= best_parent")
    pool = {"first": [("one", item) for item in range(n)]}
    board = Estimates(objectives, (bound,), pool, SPACE)
    for number, first in enumerate(FIRST):
        right = n if first.name == "a" else n // 2
        found = scores([1.0] * right + [0.0] * (n - right))
        trial = Trial(number, first.recipe, first.origin, first.name)
        board.enter(trial, Measured({"first": found}, Timings(0, 0, 0, 0)))
    gate = board.gate(("one",), {"first"})
    assert gate is not None
    [limit] = gate.limits
    # Wilson's lower end for n of n: n / (n + z²), z for 99 %.
    assert limit.value <= n / (n + 2.5758**2) + 1e-4
    assert limit.value > 0.9
    for wrong, missed in ((1, False), (3, False), (10, True)):
        own = scores([1.0] * (30 - wrong) + [0.0] * wrong)
        assert surely_misses(own, objectives[0], limit) == missed


def scores(values) -> ItemScores:
    return ItemScores(tuple(("one", i) for i in range(len(values))), tuple(values))


def test_a_limit_is_surely_missed_where_the_whole_interval_is_beyond_it():
    objective = OBJECTIVES[0]
    half = scores([1.0] * 50 + [0.0] * 50)  # Wilson's limits at 0.99: 0.375 and 0.625
    for relation, value, missed in (
        (">=", 0.62, False),
        (">=", 0.63, True),
        ("<=", 0.38, False),
        ("<=", 0.37, True),
    ):
        assert surely_misses(half, objective, Limit("first", relation, value)) == missed
    size = Objective("parameters", "model", "parameters", "none", "minimize", "exact")
    one = ItemScores((("model", 0),), (5.0,))
    assert surely_misses(one, size, Limit("parameters", "<=", 4.9))
    assert not surely_misses(one, size, Limit("parameters", "<=", 5.0))
    assert not surely_misses(ItemScores((), ()), objective, Limit("first", ">=", 2.0))


def test_patience_is_not_rewarded_by_what_was_not_measured():
    waiting = Patience(1)
    waiting.enter(Told((0.5, 0.5), (0.01, 0.01)), False)
    waiting.enter(Told((0.6, 0.1), (0.01, 0.01), known=(True, False)), True)
    assert waiting.is_exhausted
    winning = Patience(1)
    winning.enter(Told((0.5, 0.5), (0.01, 0.01)), False)
    winning.enter(Told((0.6, 0.1), (0.01, 0.01)), True)
    assert not winning.is_exhausted
