"""The live view and the lines of a log: time left in all, how the search stands, 80 columns."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from automerge.commands import progress
from automerge.commands.progress import watching
from automerge.commands.status import print_status, study_status
from automerge.executors.local import LocalExecutor
from automerge.objective import Objective
from automerge.report.standing import order, shown, standing
from automerge.samplers import SAMPLERS
from automerge.study import Driver, Snapshot
from tests.studies import SPACE, toy_plan, toy_store, toy_study
from tests.toy import OBJECTIVES, ToyWorker

ACC = Objective("acc", "t", "acc", "none", "maximize")
F1 = Objective("f1", "u", "f1", "none", "maximize")
SIZE = Objective("parameters", "parameters", "value", "none", "minimize", goal=True)
PARENTS = (("sorting", (0.9, 0.5)), ("clock", (0.4, 0.8)))
FRONT = (("trial-25", (0.8, 0.722)), ("sorting", (0.9, 0.5)))


class Hours:
    """A clock that goes on by a second a snapshot."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def snapshot(done: int, phase: str = "search", **more: object) -> Snapshot:
    given = {"front": FRONT, "last": "trial-25  acc 0.800  f1 0.722", "parents": PARENTS, **more}
    return Snapshot(phase, done, 40, 2, 2, 1, **given)  # type: ignore[arg-type]


def test_the_time_left_is_that_of_this_phase_and_of_those_to_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hours = Hours()
    monkeypatch.setattr(progress, "time", hours)
    console = Console(file=io.StringIO(), width=80)
    with watching(console, (ACC, F1), "cpu") as observer:
        for done in (10, 11, 12):
            observer.update(snapshot(done, later_s=100.0))
            hours.now += 3
        observer.update(snapshot(1, "test", later_s=0.0))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "searching 10/40  trial-25  acc 0.800  f1 0.722"
    assert lines[2].endswith("(about 3 min 04 s left)")  # 28 trials of 3 s, and 100 s
    assert lines[3] == "testing 1/40  trial-25  acc 0.800  f1 0.722"


def test_the_live_view_fits_and_says_how_the_search_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hours = Hours()
    monkeypatch.setattr(progress, "time", hours)
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with watching(console, (ACC, F1), "cuda") as observer:
        observer.update(snapshot(10, later_s=60.0))
        hours.now += 30
        observer.update(snapshot(20, later_s=60.0))
        view = observer._live.get_renderable()  # type: ignore[attr-defined]
    still = Console(file=io.StringIO(), width=80)
    still.print(view)
    assert isinstance(still.file, io.StringIO)
    text = still.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "20/40 1 min 00 s left" in " ".join(text.split())
    assert "30 s so far, about 2 min 00 s left, with selection and test, 20 models a minute" in text
    assert "on cuda, 2 of 2 workers busy, 1 failed" in text
    assert "best mean 76.1 % (trial-25), best parent 70.0 % (sorting): +6.1 points" in text


def test_models_are_in_the_order_of_their_ranks_whatever_the_units() -> None:
    rows = [("large", (0.80, 5e8)), ("small", (0.81, 4e8)), ("worst", (0.2, 9e8))]
    assert [rows[place][0] for place in order((ACC, SIZE), rows)] == ["small", "large", "worst"]
    assert [shown(v) for v in (477040.0, 0.75, 8.5123, float("nan"))] == [
        "477,040",
        "0.750",
        "8.512",
        "?",
    ]


def test_there_is_no_mean_of_different_units_or_without_parents() -> None:
    assert standing((ACC, SIZE), [("m", (0.5, 1e6))], [("p", (0.4, 1e6))]) == ""
    assert standing((ACC, F1), FRONT, ()) == ""
    assert standing((ACC, F1), (), PARENTS) == ""
    assert "−3.0 points" in standing((ACC,), [("m", (0.5,))], [("p", (0.53,))])


def test_a_search_tells_what_is_to_come_who_went_in_and_what_was_scored(tmp_path: Path) -> None:
    plan = toy_plan(8)
    seen: list[Snapshot] = []

    class Watching:
        def update(self, snapshot: Snapshot) -> None:
            seen.append(snapshot)

        def note(self, message: str) -> None: ...

    with toy_store(tmp_path, plan) as store:
        sampler = SAMPLERS["random"](SPACE, len(OBJECTIVES), 0, 8)
        driver = Driver(
            store,
            plan,
            SPACE,
            sampler,
            lambda: LocalExecutor(ToyWorker),
            Watching(),
            lambda: False,
        )
        assert driver.run()
    searched = [s for s in seen if s.phase == "search"]
    assert [name for name, _ in searched[-1].parents] == ["base", "a", "b"]
    assert all(set(s.values) == {o.name for o in OBJECTIVES} for s in searched)
    assert all(f"{value:.3f}" in s.last for s in searched for value in s.values.values())
    assert searched[-1].later_s > 0
    assert [s.later_s > 0 for s in seen if s.phase == "select"][-1]
    after = [plan.n_items_after(part) for part in ("search", "select", "test", "explain")]  # type: ignore[arg-type]
    assert after == sorted(after, reverse=True)
    assert (after[0], after[-1]) == (plan.n_later, 0)


def test_status_says_when_how_fast_and_how_it_stands(tmp_path: Path) -> None:
    toy_study(tmp_path, 30)
    status = study_status(tmp_path)
    times = json.loads(json.dumps(status))["times"]
    assert times["last_result"] >= times["started"][:10]
    assert times["per_minute"] > 0
    screen = Console(file=io.StringIO(), width=200)
    print_status(status, screen)
    assert isinstance(screen.file, io.StringIO)
    text = screen.file.getvalue()
    assert "started " in text
    assert "trials a minute" in text
    assert str(status["standing"]) in text
