"""The laws of the loop, with a toy worker and the real store, space and samplers."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from automerge.constraint import Constraint
from automerge.errors import SearchAborted
from automerge.executors.base import Executor
from automerge.executors.local import LocalExecutor
from automerge.objective import (
    MODEL_ITEM,
    PROPERTIES,
    ItemScores,
    estimates,
    losses,
    model_property,
)
from automerge.samplers import SAMPLERS
from automerge.samplers.base import Sampler, Told
from automerge.samplers.random import draw as draw_from_prior
from automerge.store.read_result import study_result
from automerge.store.store import Store
from automerge.study import Driver, Limits, Plan, Snapshot
from automerge.study.estimates import Estimates
from automerge.study.opening import NOTHING, opening
from automerge.study.usual import usual_merges
from automerge.trial import (
    BASELINES,
    NO_ROOM,
    PARENTS,
    PARTS,
    Job,
    Measured,
    Outcome,
    Params,
    Timings,
    Trial,
)
from tests.studies import SPACE, toy_plan, toy_store
from tests.toy import OBJECTIVES, ToyWorker, fails

SELECT = {"one": tuple(range(600)), "two": tuple(range(600, 1000))}


def long_plan(budget: int) -> Plan:
    """An opening, and selection in four blocks, under a constraint."""
    short = toy_plan(budget)
    usual = list(usual_merges(("a", "b"), "base", tuple(SPACE.methods), 0))
    return replace(
        short,
        items=replace(short.items, select=SELECT),
        constraints=(Constraint.parse("first >= best_parent - 0.1"),),
        opening=opening(usual, ("a", "b"), "base", len(OBJECTIVES), 6),
    )


class Watcher:
    def __init__(self) -> None:
        self.snapshots: list[Snapshot] = []
        self.notes: list[str] = []

    def update(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)

    def note(self, message: str) -> None:
        self.notes.append(message)


class Shuffled:
    """An executor of several slots that finishes the newest job first."""

    slots = 3

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def submit(self, job: Job) -> None:
        self.jobs.append(job)

    def withdraw(self) -> list[Job]:
        return []

    def next_finished(self, timeout_s: float) -> tuple[Job, Outcome] | None:
        del timeout_s
        if not self.jobs:
            return None
        job = self.jobs.pop()
        return job, ToyWorker().measure(job)

    def close(self) -> None:
        self.jobs.clear()


def run(
    folder: Path,
    budget: int = 20,
    *,
    sampler: str = "random",
    worker: ToyWorker | None = None,
    executor: Callable[[], Executor] | None = None,
    stop: Callable[[], bool] = lambda: False,
    watcher: Watcher | None = None,
    planned: Callable[[int], Plan] = toy_plan,
) -> bool:
    plan = planned(budget)
    with toy_store(folder, plan) as store:
        driver = Driver(
            store,
            plan,
            SPACE,
            SAMPLERS[sampler](SPACE, len(OBJECTIVES), 0, budget),
            executor or (lambda: LocalExecutor(lambda: worker or ToyWorker())),
            watcher or Watcher(),
            stop,
        )
        return driver.run()


def content(folder: Path) -> tuple[object, ...]:
    with Store(folder, write=False) as store:
        parts = tuple(store.outcomes(part) for part in ("search", "select", "test"))
        return store.trials(), parts, store.study.decided.front


def stop_after(calls: int) -> Callable[[], bool]:
    counted = iter(range(calls))
    return lambda: next(counted, None) is None


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("sampler", "planned", "calls"),
    [
        *itertools.product(["random", "cma", "tpe"], [toy_plan, long_plan], [1, 6, 17, 40, 60]),
        ("gp", long_plan, 6),
        ("gp", toy_plan, 17),
    ],
)
def test_a_resumed_study_equals_an_uninterrupted_one(
    tmp_path: Path, sampler: str, planned: Callable[[int], Plan], calls: int
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    worker = ToyWorker(fail=fails(7, 9))
    assert run(whole, sampler=sampler, worker=worker, planned=planned)
    witness = tmp_path / "witness"
    counting = ToyWorker(witness=witness, fail=fails(7, 9))
    while not run(parts, sampler=sampler, worker=counting, stop=stop_after(calls), planned=planned):
        calls += 3
    assert content(parts) == content(whole)
    made = witness.read_text().splitlines()
    assert len(made) == len(set(made)), "something was measured twice"


def test_an_opening_is_measured_once_beside_the_samplers_proposals(tmp_path: Path) -> None:
    assert run(tmp_path, planned=long_plan)
    with Store(tmp_path, write=False) as store:
        trials = store.trials()
    started = [trial for trial in trials if trial.origin == "start"]
    expected = {"sum", "cocktail", "metagpt"}
    later = {"model-stock", "cocktail-1", "cocktail-2"}
    names = {trial.name.removeprefix("start-") for trial in started}
    searched = names - expected - later
    assert names >= expected
    assert searched <= {"sum-1", "sum-2", "sum-3"}
    own = [trial for trial in trials if trial.origin == "sampler"]
    assert len(own) == 20 - 4 - len(started)
    # Softmax weights of base and sources are an average, which this space has as a sum.
    outside = {"start-metagpt", "start-model-stock"} & {trial.name for trial in started}
    assert {trial.name for trial in started if trial.params is None} == outside


def test_selection_ends_when_it_is_decided_and_drops_what_is_dominated(tmp_path: Path) -> None:
    def fine(budget: int) -> Plan:
        return replace(long_plan(budget), constraints=(), resolution=0.2)

    run(tmp_path, 30, planned=fine)
    with Store(tmp_path, write=False) as store:
        blocks = store.blocks("select")
        decided = store.study.decided
        front, shortlist = decided.front or (), decided.shortlist
        n_items = len(store.outcomes("select")[front[0]].scores["first"].items)  # type: ignore[union-attr]
    assert max(blocks.values()) < 3
    assert n_items < len(SELECT["one"])
    dropped = {n for n in shortlist if blocks[n] < max(blocks.values())}
    assert not dropped & set(front)
    assert all(blocks[n] == max(blocks.values()) for n in range(4)), "a baseline was dropped"


def test_the_best_compromise_has_a_place_on_the_shortlist(tmp_path: Path) -> None:
    def wide(budget: int) -> Plan:
        return replace(long_plan(budget), constraints=(), shortlist=4)

    run(tmp_path, 30, planned=wide)
    with Store(tmp_path, write=False) as store:
        trials, outcomes = store.trials(), store.outcomes("search")
        decided = store.study.decided
    searched = Estimates(OBJECTIVES, (), wide(30).pool, SPACE)
    for trial in trials:
        if trial.number in outcomes:
            searched.enter(trial, outcomes[trial.number])
    searched.renew()
    merges = [t.number for t in trials if t.origin not in BASELINES and t.number in searched.values]
    spans = {}
    for o in OBJECTIVES:
        own = [searched.values[n][o.name].value for n in range(4)]
        spans[o.name] = max(own) - min(own)

    def naive(number: int) -> float:
        found = searched.values[number]
        return sum((found[o.name].stderr - found[o.name].value) / spans[o.name] for o in OBJECTIVES)

    assert len(decided.shortlist) == 4
    assert min(merges, key=naive) in decided.shortlist


def test_what_misses_a_constraint_is_not_on_the_front(tmp_path: Path) -> None:
    free, bound = tmp_path / "free", tmp_path / "bound"
    free.mkdir()
    bound.mkdir()
    run(free, 30, planned=lambda budget: replace(long_plan(budget), constraints=()))
    run(bound, 30, planned=long_plan)

    def worst(folder: Path) -> tuple[float, float]:
        with Store(folder, write=False) as store:
            outcomes = store.outcomes("select")
            value = {
                n: estimates(OBJECTIVES, o.scores)["first"].value
                for n, o in outcomes.items()
                if isinstance(o, Measured)
            }
            parents = max(value[n] for n in range(3))
            return min(value[n] for n in store.study.decided.front or ()), parents - 0.1

    value, needed = worst(bound)
    assert value >= needed
    value, needed = worst(free)
    assert value < needed, "the test needs a constraint that matters"


def test_the_sampler_learns_losses_made_worse_by_what_is_missed(tmp_path: Path) -> None:
    told: dict[int, Told | None] = {}

    class Listening(Sampler):
        def __init__(self) -> None:
            self.inner = SAMPLERS["random"](SPACE, 2, 0, 20)

        def ask(self, number: int) -> Params:
            return self.inner.ask(number)

        def tell(self, number: int, params: Params | None, found: Told | None) -> None:
            told[number] = found

    with toy_store(tmp_path, long_plan(20)) as store:
        Driver(
            store, long_plan(20), SPACE, Listening(), lambda: LocalExecutor(ToyWorker), Watcher(),
            lambda: False,
        ).run()  # fmt: skip
        board = Estimates(OBJECTIVES, (), long_plan(20).pool, SPACE)
        trials = {t.number: t for t in store.trials()}
        for number, outcome in store.each_outcome("search"):
            board.enter(trials[number], outcome)
    best = max(board.values[n]["first"].value for n in range(3))
    for number in range(4, 20):
        missed = best - 0.1 - board.values[number]["first"].value
        added = np.subtract(told[number].losses, board.told[number].losses)
        assert (added > 0).all() if missed > 0 else (added == 0).all()


def test_sizes_have_slopes_of_0_and_what_weights_change_has_none_unless_measured():
    first, _ = OBJECTIVES
    sizes = tuple(map(model_property, PROPERTIES))
    plan = replace(toy_plan(20), objectives=(first, *sizes))
    draw = draw_from_prior(SPACE, np.random.default_rng(0))
    trial = Trial(0, SPACE.recipe(draw), "sampler", "trial-0", draw)
    outcome = ToyWorker().measure(Job(0, trial.recipe, "search", plan.items.search))
    scores = {first.name: outcome.scores[first.name]}
    scores |= {size.name: ItemScores((MODEL_ITEM,), (9.0,)) for size in sizes}
    slopes = {first.name: outcome.slopes[first.name]}
    board = Estimates(plan.objectives, (), plan.pool, SPACE)
    board.enter(trial, replace(outcome, scores=scores, margins={}, slopes=slopes))
    own, distance, *flat = board.told[0].slopes
    assert any(own.by_role.values())
    assert distance is None
    assert [slope.by_role for slope in flat] == [dict.fromkeys(own.by_role, 0.0)] * 2


def test_what_is_no_goal_is_kept_and_not_traded_off(tmp_path: Path) -> None:
    def kept(budget: int) -> Plan:
        first, second = OBJECTIVES
        long = long_plan(budget)
        goals = (replace(first, goal=False), second)
        return replace(long, objectives=goals, opening=NOTHING)

    class Alone(Sampler):
        def __init__(self) -> None:
            self.inner = SAMPLERS["random"](SPACE, 1, 0, 30)

        def ask(self, number: int) -> Params:
            return self.inner.ask(number)

        def tell(self, number: int, params: Params | None, found: Told | None) -> None:
            assert found is None or len(found.losses) == len(found.errors or ()) == 1

    with toy_store(tmp_path, kept(30)) as store:
        worker = LocalExecutor(ToyWorker)
        Driver(
            store, kept(30), SPACE, Alone(), lambda: worker, Watcher(), lambda: False
        ).run()  # fmt: skip
        select = store.outcomes("select")
        value = {n: estimates(OBJECTIVES, o.scores) for n, o in select.items()}  # type: ignore[union-attr]
        (front,) = {value[n]["second"].value for n in store.study.decided.front or ()}
        bound = max(value[n]["first"].value for n in range(3)) - 0.1
        assert all(value[n]["first"].value >= bound for n in store.study.decided.front or ())
        assert front == max(v["second"].value for v in value.values() if v["first"].value >= bound)


def test_a_limit_of_items_ends_the_search_and_leaves_room_for_the_rest(tmp_path: Path) -> None:
    explained = 3 * 16
    limit = 4 * 64 + 9 * (2 * 40) * 2 + explained + 100

    def few(budget: int) -> Plan:
        return replace(toy_plan(budget), limits=Limits(None, items=limit))

    watcher = Watcher()
    run(tmp_path, planned=few, watcher=watcher)
    with Store(tmp_path, write=False) as store:
        assert store.counts()["asked"] == 4 + 100 // 16
        scored = sum(
            len(s.items)
            for part in PARTS
            for o in store.outcomes(part).values()
            if isinstance(o, Measured)
            for s in o.scores.values()
        )
    assert scored <= limit
    assert any("stopping the search after" in note for note in watcher.notes)


class Clocks:
    """The machine's clocks, moved by hand: each measurement takes a tenth of a second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steady = 1000.0
        self.of_day = 2e9
        monkeypatch.setattr(time, "monotonic", lambda: self.steady)
        monkeypatch.setattr(time, "time", lambda: self.of_day)

    def pass_(self, seconds: float) -> None:
        self.steady += seconds
        self.of_day += seconds


@dataclass(frozen=True)
class Slow(ToyWorker):
    """Takes longer than it says, so that no time is kept for selection and test."""

    clocks: Clocks | None = None
    jump_s: float = 0.0

    def measure(self, job: Job) -> Outcome:
        assert self.clocks is not None
        self.clocks.pass_(0.1)
        self.clocks.of_day += self.jump_s if job.trial == 8 else 0.0
        outcome = super().measure(job)
        return replace(outcome, timings=Timings()) if isinstance(outcome, Measured) else outcome


@pytest.mark.parametrize("jump_s", [0.0, -86_400.0, 86_400.0])
def test_a_limit_of_time_counts_the_searching_of_all_runs_whatever_the_time_of_day_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    def two_seconds(budget: int) -> Plan:
        return replace(toy_plan(budget), limits=Limits(None, seconds=1.95))

    clocks = Clocks(monkeypatch)
    worker = Slow(clocks=clocks, jump_s=jump_s)
    assert not run(
        tmp_path, planned=two_seconds, worker=worker, stop=lambda: clocks.steady > 1000.55
    )
    with Store(tmp_path, write=False) as store:
        assert store.counts()["measured"] == 6
        assert store.searched_s() == pytest.approx(0.6)
    clocks.pass_(3600)  # nobody searches
    clocks.of_day += jump_s
    assert run(tmp_path, planned=two_seconds, worker=worker)
    with Store(tmp_path, write=False) as store:
        assert store.counts()["asked"] == 20
        assert store.searched_s() == pytest.approx(2.0)
        assert store.study.decided.front


def test_a_finished_study_measures_nothing_more(tmp_path: Path) -> None:
    run(tmp_path)
    before = content(tmp_path)

    def never() -> Executor:
        raise AssertionError("no executor is needed")

    assert run(tmp_path, executor=never)
    assert content(tmp_path) == before


def test_a_raised_budget_extends(tmp_path: Path) -> None:
    run(tmp_path, 12)
    witness = tmp_path / "witness"
    run(tmp_path, 20, worker=ToyWorker(witness=witness))
    with Store(tmp_path, write=False) as store:
        assert store.counts()["asked"] == 20
    searched = [line for line in witness.read_text().splitlines() if line.startswith("search")]
    assert len(searched) == 8


def test_a_search_that_finishes_out_of_order_resumes_too(tmp_path: Path) -> None:
    watcher = Watcher()
    while not run(tmp_path, executor=Shuffled, stop=stop_after(9), watcher=watcher):
        pass
    with Store(tmp_path, write=False) as store:
        assert set(store.outcomes("search")) == {t.number for t in store.trials()}
    assert watcher.notes == []


class Drawn(Shuffled):
    """An executor whose jobs finish in an order drawn at random."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rng = np.random.default_rng(seed)

    def next_finished(self, timeout_s: float) -> tuple[Job, Outcome] | None:
        if not self.jobs or self.rng.random() < 0.2:
            return None
        self.jobs.append(self.jobs.pop(int(self.rng.integers(len(self.jobs)))))
        return super().next_finished(timeout_s)


@pytest.mark.sample(1)
@pytest.mark.parametrize("sampler", ["cma", "tpe", "gp"])
def test_under_a_window_the_trials_do_not_depend_on_who_is_first(
    tmp_path: Path, sampler: str
) -> None:
    def windowed(budget: int) -> Plan:
        return replace(toy_plan(budget), window=4)

    found = []
    for seed in range(4):
        folder = tmp_path / str(seed)
        folder.mkdir()
        stops = 5 + 7 * seed
        while not run(
            folder, 24, sampler=sampler, executor=lambda: Drawn(seed), planned=windowed,  # noqa: B023
            stop=stop_after(stops) if seed else lambda: False,
        ):  # fmt: skip
            stops += 5
        found.append(content(folder))
    assert all(other == found[0] for other in found)


def test_without_a_window_they_do(tmp_path: Path) -> None:
    """Else the test above could not fail."""
    found = []
    for seed in range(4):
        folder = tmp_path / str(seed)
        folder.mkdir()
        run(folder, 24, sampler="cma", executor=lambda: Drawn(seed))  # noqa: B023
        found.append(content(folder)[0])
    assert any(other != found[0] for other in found)


def test_nothing_measured_on_select_items_dominates_the_front(tmp_path: Path) -> None:
    run(tmp_path, 30)
    with Store(tmp_path, write=False) as store:
        select = store.outcomes("select")
        decided = store.study.decided
        front = decided.front or ()
        assert front
        assert set(front) <= {0, 1, 2, 3, *decided.shortlist}
        rows = {
            n: losses(OBJECTIVES, estimates(OBJECTIVES, o.scores))
            for n, o in select.items()
            if isinstance(o, Measured)
        }
        tested = set(store.outcomes("test"))
    for member in front:
        better = [
            n
            for n in rows
            if all(a <= b for a, b in zip(rows[n], rows[member], strict=True))
            and rows[n] != rows[member]
        ]
        assert better == []
    assert tested == {0, 1, 2, 3, *front}


@pytest.mark.parametrize("budget", [0, 1, 3, 4])
def test_any_budget_is_kept(tmp_path: Path, budget: int) -> None:
    assert run(tmp_path, budget)
    with Store(tmp_path, write=False) as store:
        assert len(store.outcomes("search")) == budget


def test_a_base_that_cannot_be_scored_ends_the_search(tmp_path: Path) -> None:
    with pytest.raises(SearchAborted, match="'base' itself"):
        run(tmp_path, worker=ToyWorker(fail=fails(0)))
    with pytest.raises(SearchAborted, match="'base' itself"):
        run(tmp_path)


def test_three_identical_errors_in_a_row_end_the_search(tmp_path: Path) -> None:
    from automerge.trial import Failed

    def broken(job: Job) -> Outcome | None:
        return Failed("error", "disk gone") if job.trial > 5 else None

    with pytest.raises(SearchAborted, match=r"3 trials in a row failed in the same way.*disk gone"):
        run(tmp_path, worker=ToyWorker(fail=broken))
    with Store(tmp_path, write=False) as store:
        assert store.counts() == {"asked": 9, "measured": 6, "failed": 3, "duplicates": 0}


def test_invalid_merges_never_end_the_search_and_never_reach_the_front(tmp_path: Path) -> None:
    invalid = range(5, 15)
    assert run(tmp_path, worker=ToyWorker(fail=fails(*invalid, kind="invalid")))
    with Store(tmp_path, write=False) as store:
        assert not set(store.study.decided.shortlist) & set(invalid)
        assert store.counts()["failed"] == 10


def test_a_proposal_already_measured_is_told_but_neither_measured_nor_charged(
    tmp_path: Path,
) -> None:
    class Repeats(Sampler):
        """Proposes the same point twice before it moves on."""

        def __init__(self) -> None:
            self.inner = SAMPLERS["random"](SPACE, 2, 0, 20)
            self.held: dict[int, object] = {}
            self.told: list[tuple[int, object]] = []
            self.last: object = None

        def ask(self, number: int):  # type: ignore[no-untyped-def]
            if self.last is None:
                self.last = self.inner.ask(number)
                return self.last
            params, self.last = self.last, None
            return params

        def tell(self, number: int, params: object, told: Told | None) -> None:
            self.told.append((number, told))

    sampler = Repeats()
    with toy_store(tmp_path) as store:
        driver = Driver(
            store,
            toy_plan(10),
            SPACE,
            sampler,
            lambda: LocalExecutor(ToyWorker),
            Watcher(),
            lambda: False,
        )
        assert driver.run()
        counts, duplicates = store.counts(), store.duplicates()
    assert counts["asked"] == counts["measured"] == 10
    assert counts["duplicates"] in (5, 6)
    told = dict(sampler.told)
    for number, original in duplicates.items():
        assert told[number] == told[original]


def test_a_space_with_nothing_new_ends_the_search(tmp_path: Path) -> None:
    class Stuck(Sampler):
        def ask(self, number: int):  # type: ignore[no-untyped-def]
            return SAMPLERS["random"](SPACE, 2, 0, 20).ask(4)

        def tell(self, *_: object) -> None: ...

    watcher = Watcher()
    with toy_store(tmp_path) as store:
        args = (lambda: LocalExecutor(ToyWorker)), watcher, lambda: False
        assert Driver(store, toy_plan(10), SPACE, Stuck(), *args).run()
        assert store.counts()["measured"] == 5
    assert any("exhausted" in note for note in watcher.notes)


def test_snapshots_count_up_to_the_budget(tmp_path: Path) -> None:
    watcher = Watcher()
    run(tmp_path, 10, watcher=watcher)
    searched = [s.done for s in watcher.snapshots if s.phase == "search"]
    assert searched == list(range(1, 11))
    assert all(math.isfinite(v) for s in watcher.snapshots for _, row in s.front for v in row)


class Listener(Sampler):
    """The random sampler, remembering what it is told of."""

    def __init__(self) -> None:
        self.inner = SAMPLERS["random"](SPACE, 2, 0, 20)
        self.told: list[int] = []

    def ask(self, number: int) -> Params:
        return self.inner.ask(number)

    def repeat(self, number: int, params: Params) -> bool:
        return self.inner.repeat(number, params)

    def tell(self, number: int, params: Params | None, told: Told | None) -> None:
        self.told.append(number)
        self.inner.tell(number, params, told)


def test_a_duplicate_that_a_kill_left_untold_is_told_on_resuming(tmp_path: Path) -> None:
    run(tmp_path, stop=stop_after(18))
    with Store(tmp_path, write=True) as store:
        trials, measured = store.trials(), store.outcomes("search")
        original = next(t for t in trials if t.origin == "sampler" and t.number in measured)
        # Killed between the two transactions: asked for, and not yet told.
        duplicate = replace(original, number=len(trials), name=f"trial-{len(trials)}")
        store.ask(duplicate, duplicate_of=original.number)
    sampler = Listener()
    with Store(tmp_path, write=True) as store:
        Driver(
            store,
            toy_plan(20),
            SPACE,
            sampler,
            lambda: LocalExecutor(ToyWorker),
            Watcher(),
            lambda: False,
        ).run()
        told = [event.trial for event in store.events() if event.kind == "tell"]
    assert sampler.told.count(duplicate.number) == 1
    assert told.count(duplicate.number) == 1


@dataclass(frozen=True)
class Full(ToyWorker):
    """A worker without room for slopes."""

    def measure(self, job: Job) -> Outcome:
        outcome = super().measure(job)
        assert isinstance(outcome, Measured)
        notes = {} if job.steering is None else {NO_ROOM: 1.0}
        return replace(outcome, slopes={}, notes=notes)


def test_slopes_are_measured_only_where_the_plan_has_them(tmp_path):
    run(tmp_path / "with", 20, sampler="descent")
    run(
        tmp_path / "without",
        20,
        sampler="descent",
        planned=lambda budget: replace(toy_plan(budget), slopes=False),
    )
    with_slopes, without = (content(tmp_path / name)[0] for name in ("with", "without"))
    assert any(trial.slopes for trial in with_slopes)
    assert not any(trial.slopes for trial in without)


def test_a_study_says_once_that_slopes_do_not_fit_and_so_does_its_report(tmp_path):
    watcher = Watcher()
    assert run(tmp_path, 20, sampler="descent", worker=Full(), watcher=watcher)
    [note] = [note for note in watcher.notes if "slopes" in note]
    assert "do not fit into memory" in note
    with Store(tmp_path, write=False) as store:
        result = study_result(tmp_path, store)
    n = sum(trial.trial.slopes > 0 for trial in result.trials)
    assert n > 1
    [warning] = [text for text in result.warnings if "slopes" in text]
    assert f"{n} trials" in warning


@dataclass(frozen=True)
class Noting(ToyWorker):
    """A worker that notes the jobs it gets."""

    jobs: list[Job] = field(default_factory=list)

    def measure(self, job: Job) -> Outcome:
        self.jobs.append(job)
        return super().measure(job)


def test_slopes_follow_what_parents_answered_rightly_also_after_resuming(tmp_path):
    whole, parts = Noting(), Noting()
    assert run(tmp_path / "whole", 20, sampler="descent", worker=whole)
    calls = 30
    while not run(tmp_path / "parts", 20, sampler="descent", worker=parts, stop=stop_after(calls)):
        calls += 3
    assert parts.jobs == whole.jobs
    trials, (search, _, _), _ = content(tmp_path / "whole")
    parents = {t.number for t in trials if t.origin in PARENTS}
    assert {job.trial for job in whole.jobs if job.keep_answers} == parents
    assert all(job.part == "search" for job in whole.jobs if job.keep_answers)
    right = {}
    for number in sorted(parents, key=lambda n: (-np.mean(search[n].scores["second"].values), n)):
        for item, text in search[number].answers["second"].items():
            right.setdefault(item, text)
    steered = [job for job in whole.jobs if job.steering is not None]
    assert sum(len(job.steering.answers.get("second", ())) for job in steered) > 0
    for job in steered:
        own = {(task, doc) for task, docs in job.items.items() for doc in docs}
        expected = {item: text for item, text in right.items() if item in own}
        assert job.steering.answers == ({"second": expected} if expected else {})
