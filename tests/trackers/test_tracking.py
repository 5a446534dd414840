"""Trackers are told everything in order, and nothing that they do reaches the search."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from automerge.commands import tracking as module
from automerge.commands.tracking import Tracked, Tracking, flat
from automerge.objective import Objective
from automerge.study import Snapshot
from automerge.trackers.base import Settings, State
from automerge.trackers.table import Entry
from tests.studies import Unwatched

ACC = Objective("acc", "t", "acc", "none", "maximize")


class Recorder:
    """A tracker of a user's: keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def begin(self, name: str, run: Path, settings: Settings) -> None:
        self.told.append(("begin", name, dict(settings)))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.told.append((step, dict(values)))

    def finish(self, state: State, summary: Settings) -> None:
        self.told.append((state, dict(summary)))


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    made = Recorder()
    use(monkeypatch, made)
    return made


def use(monkeypatch: pytest.MonkeyPatch, tracker: object, needs: str = "json") -> None:
    entry = Entry(lambda: tracker, needs)  # type: ignore[arg-type, return-value]
    monkeypatch.setattr(module, "TRACKERS", MappingProxyType({"mine": entry}))


def snapshot(done: int, phase: str = "search", **values: float) -> Snapshot:
    front, parents = (("m", (0.7,)), ("a", (0.6,))), (("a", (0.6,)),)
    return Snapshot(phase, done, 9, 1, 1, 0, front, "m", parents, 0.0, values)  # type: ignore[arg-type]


def test_a_run_is_told_in_order(recorder: Recorder, tmp_path: Path) -> None:
    warnings: list[str] = []
    with Tracking(["mine"], warnings.append) as tracking:
        tracking.begin("study", tmp_path, {"seed": 1, "split": {"test": 0.2}, "tasks": ["x", "y"]})
        observer = Tracked(tracking, (ACC,), Unwatched())
        observer.update(snapshot(1, acc=0.7))
        observer.update(snapshot(2, acc=float("nan")))
        observer.update(snapshot(1, "test", acc=0.65))
        tracking.end("finished", {"take": "m"})
    best = {"search/best_mean": 0.7, "search/best_parent_mean": 0.6}
    assert recorder.told == [
        ("begin", "study", {"seed": 1, "split.test": 0.2, "tasks": "x, y"}),
        (1, {"search/acc": 0.7, "search/done": 1, "search/failed": 0, **best}),
        (2, {"search/done": 2, "search/failed": 0, **best}),
        (3, {"test/acc": 0.65, "test/done": 1, "test/failed": 0}),
        ("finished", {"take": "m"}),
    ]
    assert warnings == []


@pytest.mark.parametrize(
    ("error", "state"), [(ValueError("no"), "failed"), (KeyboardInterrupt(), "stopped")]
)
def test_how_a_search_ends_is_told_and_its_error_goes_on(
    recorder: Recorder, tmp_path: Path, error: BaseException, state: str
) -> None:
    def search() -> None:
        with Tracking(["mine"], print) as tracking:
            tracking.begin("study", tmp_path, {})
            tracking.log({"x": 1.0})
            raise error

    with pytest.raises(type(error)):
        search()
    assert recorder.told[-1] == (state, {})


def test_nothing_begins_before_something_is_measured(recorder: Recorder, tmp_path: Path) -> None:
    with Tracking(["mine"], print) as tracking:
        tracking.begin("study", tmp_path, {})
    assert recorder.told == []


@pytest.mark.parametrize("where", ["begin", "log", "finish"])
@pytest.mark.parametrize("error", [OSError("no network"), SystemExit(1), KeyboardInterrupt()])
def test_an_error_of_a_tracker_is_one_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str, error: BaseException
) -> None:
    class Broken(Recorder):
        pass

    def fail(*_: object) -> None:
        raise error

    setattr(Broken, where, fail)
    use(monkeypatch, Broken())
    warnings: list[str] = []
    with Tracking(["mine"], warnings.append) as tracking:
        tracking.begin("study", tmp_path, {})
        for _ in range(5):
            tracking.log({"x": 1.0})
        tracking.end("finished", {})
    assert len(warnings) == 1
    assert f"tracker mine failed: {type(error).__name__}" in warnings[0]
    assert warnings[0].endswith("the search goes on without it")


def test_a_tracker_that_hangs_delays_nothing_but_the_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    free = threading.Event()

    class Hanging(Recorder):
        def log(self, step: int, values: Mapping[str, float]) -> None:
            free.wait()

    use(monkeypatch, Hanging())
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)
    monkeypatch.setattr(module, "WAITING", 3)
    warnings: list[str] = []
    try:
        with Tracking(["mine"], warnings.append) as tracking:
            tracking.begin("study", tmp_path, {})
            for _ in range(50):
                tracking.log({"x": 1.0})
    finally:
        free.set()
    assert [w.split("; ")[-1] for w in warnings] == ["points are left out", "the rest is lost"]


def test_what_is_not_installed_is_one_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use(monkeypatch, None, needs="no_such_module")
    warnings: list[str] = []
    with Tracking(["mine"], warnings.append) as tracking:
        tracking.begin("study", tmp_path, {})
        tracking.log({"x": 1.0})
    assert len(warnings) == 1
    assert 'pip install "automerge-llm[mine]"' in warnings[0]


def test_settings_are_flat() -> None:
    plain = {"a": {"b": None, "c": [1, 2]}, "d": True}
    assert flat(plain) == {"a.c": "1, 2", "d": True}


def test_the_table_imports_no_tracker() -> None:
    import automerge.trackers.table  # noqa: F401

    assert not {"wandb", "mlflow", "trackio"} & set(sys.modules)
