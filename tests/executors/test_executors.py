"""The conformance suite of EXECUTORS, and what only Ray can do."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import ray

from automerge.errors import AutomergeError, ClusterLost, DeviceLost, ModelsChanged, PreflightError
from automerge.executors import EXECUTORS, Executor, Launcher
from automerge.executors.local import LocalExecutor
from automerge.executors.ray import RETRIES, RayExecutor, RaySettings
from automerge.recipe import Profile, Recipe, RecipeSource
from automerge.testing import ExecutorLaws
from automerge.testing import executors as laws
from automerge.trial import Failed, Job, Measured, Outcome, Part
from tests.toy import ITEMS, ToyWorker

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def job(number: int) -> Job:
    weights = {"a": 0.1 * number, "b": 1.0}
    sources = tuple(RecipeSource(n, {"weight": Profile.of(w)}) for n, w in weights.items())
    return Job(number, Recipe("linear", sources), "search", ITEMS)


@pytest.fixture(scope="module")
def own_ray() -> Iterator[None]:
    """One Ray for all tests here; executors that find one running leave it running."""
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )
    yield
    ray.shutdown()


def collect(executor: Executor, jobs: list[Job]) -> dict[int, Outcome]:
    waiting = list(jobs)
    finished: dict[int, Outcome] = {}
    in_flight = 0
    deadline = time.monotonic() + 600
    while len(finished) < len(jobs):
        while waiting and in_flight < executor.slots:
            executor.submit(waiting.pop(0))
            in_flight += 1
        if (done := executor.next_finished(timeout_s=1.0)) is not None:
            finished[done[0].trial] = done[1]
            in_flight -= 1
        assert time.monotonic() < deadline
    return finished


@pytest.mark.usefixtures("own_ray")
class TestExecutors(ExecutorLaws):
    @pytest.fixture(params=tuple(EXECUTORS))
    def launcher(self, request: pytest.FixtureRequest) -> Launcher:
        return EXECUTORS[request.param]


class Forgetful(LocalExecutor):
    """Loses what it is given last, when it is given much."""

    def submit(self, job: Job) -> None:
        if len(self._queue) < 4:
            super().submit(job)


class Blunt(LocalExecutor):
    """Begins jobs without a word."""

    def next_finished(self, timeout_s: float) -> tuple[Job, Outcome] | None:
        if not self._queue:
            return None
        self._worker = self._worker or self._factory()
        one = self._queue.popleft()
        return one, self._worker.measure(one)


class Lax(LocalExecutor):
    """Takes what a worker raises for a failure of its job."""

    def next_finished(self, timeout_s: float) -> tuple[Job, Outcome] | None:
        one = self._queue[0] if self._queue else job(0)
        try:
            return super().next_finished(timeout_s)
        except AutomergeError as error:
            return one, Failed("error", str(error))


class Undead(LocalExecutor):
    """Goes on after it was closed."""

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("executor", "law", "arguments"),
    [
        (Forgetful, "test_every_job_comes_back_once_as_it_was_measured", {"workers": 1}),
        (Blunt, "test_every_job_comes_back_once_as_it_was_measured", {"workers": 1}),
        (Lax, "test_models_that_changed_end_the_study", {"where": "measure"}),
        (Lax, "test_why_a_worker_cannot_be_built_is_said", {}),
        (Undead, "test_after_closing_nothing_comes_back", {}),
    ],
)
def test_the_laws_fail_what_breaks_them(
    executor: type[LocalExecutor],
    law: str,
    arguments: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(laws, "PATIENCE", 10)
    launcher = Launcher(lambda start: executor(start.worker), in_driver=True)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        getattr(ExecutorLaws(), law)(launcher, **arguments)


@dataclass(frozen=True)
class Deadly(ToyWorker):
    """Kills its own process, or loses its GPU, at one trial, the first `times` times."""

    folder: Path = Path()
    trial: int = 0
    times: int = 0
    killed: bool = True

    def measure(self, job: Job) -> Outcome:
        if job.trial == self.trial:
            deaths = len(list(self.folder.iterdir()))
            if deaths < self.times:
                (self.folder / str(deaths)).touch()
                if not self.killed:
                    raise DeviceLost("CUDA error: an illegal memory access was encountered")
                os.kill(os.getpid(), signal.SIGKILL)
        return ToyWorker().measure(job)


@pytest.mark.usefixtures("own_ray")
@pytest.mark.parametrize("killed", [True, False])
@pytest.mark.parametrize(
    ("times", "survives"), [(1, True), pytest.param(99, False, marks=pytest.mark.slow)]
)
def test_a_worker_that_is_lost_costs_at_most_its_own_trial(
    tmp_path: Path, times: int, survives: bool, killed: bool
) -> None:
    lost = partial(Deadly, folder=tmp_path, trial=2, times=times, killed=killed)
    executor = RayExecutor(lost, RaySettings(workers=1))
    outcomes = collect(executor, [job(n) for n in range(4)])
    executor.close()
    assert all(isinstance(outcomes[n], Measured) for n in (0, 1, 3))
    if survives:
        assert outcomes[2] == ToyWorker().measure(job(2))
    else:
        assert isinstance(outcomes[2], Failed)
        assert outcomes[2].kind == "infra"
        expected = "its worker died: " if killed else "its GPU was lost: CUDA error"
        assert f"tried {RETRIES + 1} times; {expected}" in outcomes[2].reason
    # A death before the job was seen begun costs no try: a slow machine may see more of them.
    assert min(times, RETRIES + 1) <= len(list(tmp_path.iterdir())) <= times


@dataclass(frozen=True)
class Unlucky(ToyWorker):
    """Is killed before it begins its first job, the first `times` times."""

    folder: Path = Path()
    times: int = 0

    def prepare(self, part: Part) -> None:
        if len(list(self.folder.iterdir())) < self.times:
            (self.folder / str(time.monotonic_ns())).touch()
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.usefixtures("own_ray")
def test_workers_killed_before_they_begin_a_job_use_up_none_of_its_tries(tmp_path: Path) -> None:
    unlucky = partial(Unlucky, folder=tmp_path, times=RETRIES + 2)
    executor = RayExecutor(unlucky, RaySettings(workers=1))
    outcomes = collect(executor, [job(0)])
    executor.close()
    assert outcomes[0] == ToyWorker().measure(job(0))
    assert len(list(tmp_path.iterdir())) == RETRIES + 2


class Changed(ToyWorker):
    """Finds its models changed as soon as it is built."""

    def identity(self) -> dict[str, str]:
        raise ModelsChanged("changed in identity")


@pytest.mark.slow
@pytest.mark.usefixtures("own_ray")
def test_models_that_changed_before_a_worker_was_up_end_the_study() -> None:
    executor = RayExecutor(Changed, RaySettings(workers=1))
    with pytest.raises(ModelsChanged, match=r"^changed in identity$"):
        collect(executor, [job(0)])
    executor.close()


@pytest.mark.usefixtures("own_ray")
def test_what_a_cluster_lacks_is_said_at_once_and_a_stop_is_answered_at_once() -> None:
    said: list[str] = []
    settings = RaySettings(workers=None, gpus_per_worker=1, patience_s=600)
    executor = RayExecutor(ToyWorker, settings, said.append)
    (message,) = said
    assert message.startswith("no worker is up: the cluster has 2 CPUs (")
    assert message.endswith(
        "and 0 GPUs (0 free), each worker asks for 1 CPU and 1 GPU; for workers without a GPU, "
        "use --device cpu; waiting up to 10 min for nodes to join"
    )
    executor.submit(job(0))
    assert executor.next_finished(timeout_s=0.0) is None
    assert executor.withdraw() == [job(0)]
    assert executor.withdraw() == []
    executor.close()


@pytest.mark.usefixtures("own_ray")
def test_a_cluster_without_what_workers_need_is_lost_with_the_reason() -> None:
    settings = RaySettings(workers=None, gpus_per_worker=1, patience_s=0.0)
    executor = RayExecutor(ToyWorker, settings, lambda _: None)
    executor.submit(job(0))
    with pytest.raises(
        ClusterLost, match=r"0 GPUs .* --device cpu.*; run the same command to resume"
    ):
        executor.next_finished(timeout_s=1.0)
    executor.close()


@dataclass(frozen=True)
class Odd(ToyWorker):
    """Every worker after the first `alike` differs in one thing."""

    folder: Path = Path()
    alike: int = 0
    what: str = ""

    def identity(self) -> dict[str, str]:
        (self.folder / str(time.monotonic_ns())).touch()
        odd = len(list(self.folder.iterdir())) > self.alike
        return {**super().identity(), self.what: "odd" if odd else "even"}


@pytest.mark.usefixtures("own_ray")
def test_a_worker_with_other_versions_ends_the_study_before_anything_is_measured() -> None:
    settings = RaySettings(workers=1, expected={"toy": "2", "torch": "2.13"})
    executor = RayExecutor(ToyWorker, settings)
    wanted = r"toy 1 instead of 2, torch missing instead of 2\.13; use one environment"
    with pytest.raises(PreflightError, match=wanted):
        collect(executor, [job(0)])
    executor.close()


@pytest.mark.slow
@pytest.mark.usefixtures("own_ray")
def test_a_worker_on_another_device_is_not_used_beside_those_at_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    worker = partial(Odd, seconds=0.3, folder=tmp_path, alike=1, what="device")
    executor = RayExecutor(worker, RaySettings(workers=2))
    outcomes = collect(executor, [job(n) for n in range(8)])
    assert all(isinstance(outcome, Measured) for outcome in outcomes.values())
    assert executor.slots == 1
    executor.close()
    assert "device odd instead of even; it is not used" in caplog.text


def refuses() -> ToyWorker:
    raise ValueError("no such model")


@pytest.mark.usefixtures("own_ray")
def test_a_worker_that_cannot_start_says_why_and_is_not_tried_again() -> None:
    executor = RayExecutor(refuses, RaySettings(workers=1))
    with pytest.raises(PreflightError, match="no such model"):
        collect(executor, [job(0)])
    executor.close()


@dataclass(frozen=True)
class Meets(ToyWorker):
    """Each job waits until a later one has begun elsewhere; two at once in a worker would fail."""

    folder: Path = Path()

    def measure(self, job: Job) -> Outcome:
        running = self.folder / f"running-{os.getpid()}"
        running.touch(exist_ok=False)
        (self.folder / f"{job.trial}-{os.getpid()}").touch()
        until = time.monotonic() + 300
        while job.trial < 5 and not list(self.folder.glob(f"{job.trial + 1}-*")):
            assert time.monotonic() < until
            time.sleep(0.01)
        running.unlink()
        return super().measure(job)


@pytest.mark.usefixtures("own_ray")
def test_no_two_jobs_of_a_worker_overlap_and_none_waits_for_a_barrier(tmp_path: Path) -> None:
    executor = RayExecutor(partial(Meets, folder=tmp_path), RaySettings(workers=2))
    while executor.slots < 2:
        executor.submit(job(100))
        while executor.next_finished(timeout_s=1.0) is None:
            pass
    outcomes = collect(executor, [job(n) for n in range(6)])
    executor.close()
    assert all(isinstance(outcome, Measured) for outcome in outcomes.values())
    ran = dict(path.name.split("-") for path in tmp_path.glob("[0-5]-*"))
    assert len(set(ran.values())) == 2
    assert all(ran[str(n)] != ran[str(n + 1)] for n in range(5))
