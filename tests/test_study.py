"""The laws of the loop, with a toy worker and the real store, space and samplers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from automerge.errors import SearchAborted
from automerge.executors.base import Executor
from automerge.executors.local import LocalExecutor
from automerge.items import ItemDraw
from automerge.methods import METHODS
from automerge.objective import estimates, losses
from automerge.recipe import single, uniform_average
from automerge.samplers import SAMPLERS
from automerge.space import SpaceSettings, build_space
from automerge.store import Store
from automerge.study import Driver, FirstTrial, Plan, Snapshot
from automerge.trial import Job, Measured, Outcome
from tests.toy import ITEMS, OBJECTIVES, ToyWorker, fails

SPACE = build_space(
    SpaceSettings(methods=("linear", "task_arithmetic")), "base", ("a", "b"), 4, METHODS
)
FIRST = (
    FirstTrial("base", "base", single("base")),
    FirstTrial("a", "source", single("a")),
    FirstTrial("b", "source", single("b")),
    FirstTrial("uniform", "uniform", uniform_average(("a", "b"))),
)


def plan(budget: int) -> Plan:
    items = {"search": ITEMS, "select": ITEMS, "test": ITEMS}
    draw = ItemDraw({"first": ("one",), "second": ("two",)}, 8, seed=0)
    return Plan(OBJECTIVES, FIRST, items, draw, budget, 5)


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
) -> bool:
    with Store(folder, write=True) as store:
        driver = Driver(
            store,
            plan(budget),
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
        return store.trials(), parts, store.meta("front")


def stop_after(calls: int) -> Callable[[], bool]:
    counted = iter(range(calls))
    return lambda: next(counted, None) is None


@pytest.mark.parametrize("sampler", ["random", "cma", "tpe"])
@pytest.mark.parametrize("calls", [1, 6, 17, 40, 60])
def test_a_resumed_study_equals_an_uninterrupted_one(
    tmp_path: Path, sampler: str, calls: int
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    worker = ToyWorker(fail=fails(7, 9))
    assert run(whole, sampler=sampler, worker=worker)
    witness = tmp_path / "witness"
    counting = ToyWorker(witness=witness, fail=fails(7, 9))
    while not run(parts, sampler=sampler, worker=counting, stop=stop_after(calls)):
        calls += 3
    assert content(parts) == content(whole)
    made = witness.read_text().splitlines()
    assert len(made) == len(set(made)), "something was measured twice"


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


def test_nothing_measured_on_select_items_dominates_the_front(tmp_path: Path) -> None:
    run(tmp_path, 30)
    with Store(tmp_path, write=False) as store:
        select = store.outcomes("select")
        front = store.meta("front")
        assert front
        assert set(front) <= {0, 1, 2, 3, *store.meta("shortlist")}
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

    with pytest.raises(SearchAborted, match=r"3 trials in a row failed alike.*disk gone"):
        run(tmp_path, worker=ToyWorker(fail=broken))
    with Store(tmp_path, write=False) as store:
        assert store.counts() == {"asked": 9, "measured": 6, "failed": 3, "duplicates": 0}


def test_invalid_merges_never_end_the_search_and_never_reach_the_front(tmp_path: Path) -> None:
    invalid = range(5, 15)
    assert run(tmp_path, worker=ToyWorker(fail=fails(*invalid, kind="invalid")))
    with Store(tmp_path, write=False) as store:
        assert not set(store.meta("shortlist")) & set(invalid)
        assert store.counts()["failed"] == 10


def test_a_proposal_already_measured_is_told_but_neither_measured_nor_charged(
    tmp_path: Path,
) -> None:
    class Repeats:
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

        def tell(self, number: int, params: object, losses: Iterable[float] | None) -> None:
            self.told.append((number, losses))

    sampler = Repeats()
    with Store(tmp_path, write=True) as store:
        driver = Driver(
            store,
            plan(10),
            SPACE,
            sampler,
            lambda: LocalExecutor(ToyWorker),
            Watcher(),
            lambda: False,
        )
        assert driver.run()
        counts = store.counts()
    assert counts["asked"] == counts["measured"] == 10
    assert counts["duplicates"] in (5, 6)
    told = dict(sampler.told)
    for number, original in driver._duplicate_of.items():
        assert told[number] == told[original]


def test_a_space_with_nothing_new_ends_the_search(tmp_path: Path) -> None:
    class Stuck:
        def ask(self, number: int):  # type: ignore[no-untyped-def]
            return SAMPLERS["random"](SPACE, 2, 0, 20).ask(4)

        def tell(self, *_: object) -> None: ...

    watcher = Watcher()
    with Store(tmp_path, write=True) as store:
        args = (lambda: LocalExecutor(ToyWorker)), watcher, lambda: False
        assert Driver(store, plan(10), SPACE, Stuck(), *args).run()
        assert store.counts()["measured"] == 5
    assert any("exhausted" in note for note in watcher.notes)


def test_snapshots_count_up_to_the_budget(tmp_path: Path) -> None:
    watcher = Watcher()
    run(tmp_path, 10, watcher=watcher)
    searched = [s.done for s in watcher.snapshots if s.phase == "search"]
    assert searched == list(range(1, 11))
    assert all(math.isfinite(v) for s in watcher.snapshots for _, row in s.front for v in row)
