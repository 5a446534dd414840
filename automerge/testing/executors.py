"""The law of executors, as tests that anybody can run over their own executor.

from automerge.testing import ExecutorLaws

class TestMine(ExecutorLaws):
    @pytest.fixture
    def launcher(self):
        return MY_LAUNCHER
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Literal

import pytest

from automerge.errors import ModelsChanged, PreflightError
from automerge.executors import Executor, Launcher, Start
from automerge.testing.workers import (
    FAILING,
    IDENTITY,
    PLACE,
    FormulaWorker,
    job,
    margins,
    scores,
    unbuilt,
)
from automerge.trial import PARTS, Failed, Job, Measured, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 600
"""Waits of a second each before a job counts as lost."""


@contextmanager
def running(
    launcher: Launcher,
    worker: Callable[[], FormulaWorker] = FormulaWorker,
    workers: int | None = None,
) -> Iterator[Executor]:
    """Start an executor as a study does, and close it at the end."""
    workers = 1 if workers is None and launcher.parallel else workers
    executor = launcher.start(Start(worker, workers, expected=IDENTITY))
    try:
        yield executor
    finally:
        executor.close()


def finish(executor: Executor, n_jobs: int) -> list[tuple[Job, Outcome]]:
    """Wait for some jobs to come back, in the order in which they do."""
    finished: list[tuple[Job, Outcome]] = []
    for _ in range(PATIENCE):
        if len(finished) == n_jobs:
            break
        if (done := executor.next_finished(timeout_s=1.0)) is not None:
            finished.append(done)
    assert len(finished) == n_jobs, f"{len(finished)} of {n_jobs} jobs came back"
    return finished


def run(executor: Executor, jobs: Sequence[Job]) -> list[tuple[Job, Outcome]]:
    """Submit jobs, all at once, and wait for them."""
    for one in jobs:
        executor.submit(one)
    return finish(executor, len(jobs))


class ExecutorLaws:
    """Every law of `automerge.executors.base.Executor`.

    The fixture `launcher` is a `Launcher`.
    """

    def test_the_declaration_is_consistent(self, launcher: Launcher) -> None:
        assert isinstance(launcher, Launcher)
        assert not (launcher.in_driver and launcher.parallel), "a process has one live model"
        assert all(isinstance(line, str) for line in launcher.warnings(None))

    @pytest.mark.parametrize("workers", [1, 2])
    def test_every_job_comes_back_once_as_it_was_measured(
        self, launcher: Launcher, workers: int
    ) -> None:
        if workers > 1 and not launcher.parallel:
            pytest.skip("it has one worker")
        jobs = [job(trial, part) for trial, part in enumerate([*PARTS, *PARTS])]
        with running(launcher, workers=workers) as executor:
            assert executor.next_finished(timeout_s=0.0) is None
            assert 1 <= executor.slots <= workers
            finished = run(executor, jobs)
            assert 1 <= executor.slots <= workers
            assert executor.next_finished(timeout_s=0.0) is None
        assert sorted((one.key for one, _ in finished)) == sorted(one.key for one in jobs)
        for one, outcome in finished:
            assert one in jobs
            if one.trial == FAILING:
                assert outcome == Failed("invalid", "made to fail")
            else:
                assert isinstance(outcome, Measured), outcome
                assert outcome.scores == scores(one)
                assert outcome.margins == margins(one)

    def test_workers_are_where_the_launcher_says(self, launcher: Launcher) -> None:
        if not launcher.in_driver:
            pickle.loads(pickle.dumps(FormulaWorker))
        with running(launcher) as executor:
            [(_, outcome)] = run(executor, [job(0)])
        assert isinstance(outcome, Measured)
        assert (outcome.notes[PLACE] == os.getpid()) is launcher.in_driver

    def test_jobs_that_wait_can_be_withdrawn_and_the_others_come_back(
        self, launcher: Launcher
    ) -> None:
        jobs = [job(trial) for trial in range(5)]
        with running(launcher) as executor:
            for one in jobs:
                executor.submit(one)
            withdrawn = executor.withdraw()
            assert executor.withdraw() == []
            finished = [one for one, _ in finish(executor, len(jobs) - len(withdrawn))]
            assert executor.next_finished(timeout_s=0.0) is None
            assert sorted(one.trial for one in [*withdrawn, *finished]) == list(range(5))
            [(again, _)] = run(executor, [withdrawn[0] if withdrawn else job(5)])
            assert again.trial == (withdrawn[0].trial if withdrawn else 5)

    @pytest.mark.parametrize("where", ["prepare", "measure"])
    def test_models_that_changed_end_the_study(
        self, launcher: Launcher, where: Literal["prepare", "measure"]
    ) -> None:
        with (
            running(launcher, partial(FormulaWorker, changed=where)) as executor,
            pytest.raises(ModelsChanged, match=f"^changed in {where}$"),
        ):
            run(executor, [job(0)])

    def test_why_a_worker_cannot_be_built_is_said(self, launcher: Launcher) -> None:
        with (
            running(launcher, unbuilt) as executor,
            pytest.raises(PreflightError, match="the model does not fit"),
        ):
            run(executor, [job(0)])

    def test_a_worker_that_differs_from_the_study_measures_nothing(
        self, launcher: Launcher
    ) -> None:
        if launcher.in_driver:
            pytest.skip("its worker is the driver's own")
        other = partial(FormulaWorker, identities={**IDENTITY, "formula": "2"})
        with (
            running(launcher, other) as executor,
            pytest.raises(PreflightError, match="formula 2 instead of 1"),
        ):
            run(executor, [job(0)])

    def test_after_closing_nothing_comes_back(self, launcher: Launcher) -> None:
        with running(launcher) as executor:
            run(executor, [job(0)])
            executor.submit(job(1))
            executor.close()
            assert executor.next_finished(timeout_s=0.0) is None
            assert executor.withdraw() == []
