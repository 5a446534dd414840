"""A search may stop once it wins nothing beyond the errors of its estimates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from automerge.executors.local import LocalExecutor
from automerge.samplers import SAMPLERS
from automerge.samplers.base import Told
from automerge.study import Driver, Limits
from automerge.study.patience import Patience
from tests.studies import SPACE, Unwatched, toy_plan, toy_store
from tests.toy import OBJECTIVES, ToyWorker


class Listening(Unwatched):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def waited(patience: int, losses: list[tuple[float, ...]], error: float) -> int | None:
    """Return after how many proposals it is exhausted; None if it never is."""
    counted = Patience(patience)
    counted.enter(Told((1.0, 1.0), (error, error)), proposed=False)
    for number, values in enumerate(losses, start=1):
        counted.enter(Told(values, (error,) * len(values)), proposed=True)
        if counted.is_exhausted:
            return number
    return None


def test_luck_is_no_win() -> None:
    rng = np.random.default_rng(0)
    noise = [tuple(1 + 0.1 * rng.standard_normal(2)) for _ in range(30)]
    assert waited(10, noise, error=0.1) == 10
    assert waited(10, noise, error=0.0) != 10


def test_small_gains_add_up_to_a_win() -> None:
    falling = [(1 - 0.02 * n, 1.0) for n in range(40)]
    # A step is a fifth of an error; 2 √2 errors are 15 steps.
    assert waited(20, falling, error=0.1) is None
    assert waited(10, falling, error=0.1) == 10


def test_another_trade_off_is_a_win_and_a_dominated_trial_is_none() -> None:
    assert waited(2, [(0.5, 2.0), (2.0, 0.5), (0.1, 5.0), (5.0, 0.1)], error=0.01) is None
    assert waited(2, [(0.5, 0.5), (0.6, 0.6), (0.7, 0.7)], error=0.01) == 3


@pytest.mark.parametrize("error", [np.nan, np.inf])
def test_a_trial_of_unknown_error_wins_nothing_and_failures_count(error: float) -> None:
    counted = Patience(2)
    counted.enter(Told((1.0,), (0.0,)), proposed=False)
    counted.enter(Told((0.0,), (error,)), proposed=True)
    assert not counted.is_exhausted
    counted.enter(None, proposed=True)
    assert counted.is_exhausted


def test_without_patience_a_search_goes_on() -> None:
    counted = Patience(None)
    for _ in range(100):
        counted.enter(None, proposed=True)
    assert not counted.is_exhausted


def test_a_search_ends_early_says_so_and_goes_on_with_more_patience(tmp_path: Path) -> None:
    def run(patience: int | None) -> tuple[int, list[str], tuple[str, ...]]:
        plan = replace(toy_plan(60), limits=Limits(60, patience=patience))
        watcher = Listening()
        with toy_store(tmp_path, plan) as store:
            sampler = SAMPLERS["random"](SPACE, len(OBJECTIVES), 0, 60)
            worker = LocalExecutor(ToyWorker)
            driver = Driver(store, plan, SPACE, sampler, lambda: worker, watcher, lambda: False)
            assert driver.run()
            return store.counts()["asked"], watcher.notes, store.study.decided.remarks

    asked, notes, remarks = run(5)
    assert asked < 60
    assert any("ended early" in note for note in notes)
    assert len(remarks) == 1
    assert f"after {asked} trials: none of the last 5 proposals" in remarks[0]
    assert run(5)[0] == asked
    more, _, remarks = run(None)
    assert (more, remarks) == (60, ())
