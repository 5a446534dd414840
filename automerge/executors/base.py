"""The contracts of executors and their workers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

from automerge.trial import Job, Outcome, Part

logger = logging.getLogger(__name__)


class Worker(Protocol):
    """Measures jobs, one at a time, on one device; never raises for a bad recipe."""

    def prepare(self, part: Part) -> None:
        """Check that the models are unchanged; called before each job of a part.

        Raises:
            ModelsChanged: they are not, which ends the study.
        """

    def measure(self, job: Job) -> Outcome:
        """Measure a job.

        Raises:
            ModelsChanged: as `prepare` does.
            DeviceLost: the device can no longer be used by this process.
        """

    def identity(self) -> Mapping[str, str]:
        """Return what must be equal for two workers' scores to be comparable.

        This is versions, models and the device. What the driver cannot know itself, such as the
        device, is compared between workers.
        """


WorkerFactory: TypeAlias = Callable[[], Worker]
"""Called once in the process that measures; picklable, unless that is the driver's process."""


@dataclass(frozen=True)
class Files:
    """Files of a folder that workers read: those that match any of the patterns."""

    folder: Path
    patterns: tuple[str, ...]


@runtime_checkable
class Travelling(Protocol):
    """A worker factory that knows which files its worker reads.

    An executor on other machines sends them what they lack.
    """

    def __call__(self) -> Worker: ...

    @property
    def files(self) -> tuple[Files, ...]: ...

    def relocated(self, moved: Mapping[Path, Path]) -> WorkerFactory:
        """Return the factory of a worker that reads copies of some of the folders."""
        ...


class Executor(Protocol):
    """Runs jobs on workers.

    The law:

    - Each job that was submitted and not withdrawn comes back once, with what its worker measured.
      Failure is a value; the executor itself replaces workers that are lost.
    - A worker has one job at a time, and is told the job's part before it.
    - ModelsChanged, like any other `SearchAborted` that a worker raises, ends the study: it is
      raised by `next_finished`, as is the PreflightError of a worker that cannot be built.
    - A worker outside the driver's process whose identity differs from the expected one, or from
      that of earlier workers, measures nothing.
    - After `close`, nothing is measured and nothing comes back; closing again does nothing.
    """

    @property
    def slots(self) -> int:
        """The number of jobs that keep every worker busy; at least one."""
        ...

    def submit(self, job: Job) -> None:
        """Queue a job, and return immediately."""
        ...

    def withdraw(self) -> list[Job]:
        """Take back and return the jobs that are waiting for a worker."""
        ...

    def next_finished(self, timeout_s: float) -> tuple[Job, Outcome] | None:
        """Wait for any job to finish; return None if none did in time.

        Raises:
            ClusterLost: no worker is left and none can be started.
        """
        ...

    def close(self) -> None:
        """Stop the workers; jobs in flight are abandoned."""
        ...


def outcome_of(executor: Executor, job: Job) -> Outcome:
    """Measure a single job on an executor that has no other."""
    executor.submit(job)
    finished = None
    while finished is None:
        finished = executor.next_finished(1.0)
    return finished[1]


@dataclass(frozen=True)
class Start:
    """What a study starts an executor with.

    Attributes:
        worker: builds a worker.
        workers: the number of workers; None for as many as there is room for.
        gpus: the number of GPUs per worker.
        address: the cluster to join; None for this machine.
        expected: every worker's identity, as far as the driver knows it.
        note: called with a sentence for users while no worker is up.
    """

    worker: WorkerFactory
    workers: int | None = None
    gpus: int = 0
    address: str | None = None
    expected: Mapping[str, str] = field(default_factory=dict)
    note: Callable[[str], None] = logger.warning


def _nothing(address: str | None) -> Sequence[str]:
    del address
    return ()


@dataclass(frozen=True)
class Launcher:
    """An executor that a study can name, and its capabilities.

    Attributes:
        start: starts the executor.
        parallel: whether several workers measure at once. On a CPU, each then uses one thread, and
            a deterministic study must fix their number.
        in_driver: whether its worker lives in the driver's process, and takes over what the driver
            has opened; otherwise, workers are built from a pickle.
        joins: whether it can join a cluster at an address.
        warnings: returns what users should know before code is sent to an address.
    """

    start: Callable[[Start], Executor]
    parallel: bool = False
    in_driver: bool = False
    joins: bool = False
    warnings: Callable[[str | None], Sequence[str]] = _nothing
