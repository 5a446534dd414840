"""The contracts of executors and their workers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from automerge.trial import Job, Outcome, Part

logger = logging.getLogger(__name__)


class Worker(Protocol):
    """Measures jobs, one at a time, on one device; never raises for a bad recipe."""

    def prepare(self, part: Part) -> None:
        """Called before each job of a part: make sure that what will be read is as it was.

        Raises ModelsChanged where it is not; that ends the study.
        """

    def measure(self, job: Job) -> Outcome:
        """Measure a job; raises ModelsChanged as `prepare` does, and DeviceLost."""

    def identity(self) -> Mapping[str, str]:
        """What must be equal for scores of two workers to be comparable: versions, models, device.

        What the driver cannot know itself, such as the device, is compared between workers.
        """


WorkerFactory: TypeAlias = Callable[[], Worker]
"""Called once in the process that measures; picklable, unless that is the driver's."""


class Executor(Protocol):
    """Runs jobs on workers.

    The law:

    - Each job that was submitted and not withdrawn comes back once, with what its worker measured.
      Failure is a value; workers that are lost are replaced inside.
    - A worker has one job at a time, and is told the job's part before it.
    - ModelsChanged, and what else of `SearchAborted` a worker raises, ends the study: it comes out
      of `next_finished`, as does the PreflightError of a worker that cannot be built.
    - A worker outside the driver's process whose identity is not the expected one, or not that of
      the workers before it, measures nothing.
    - After `close` nothing is measured and nothing comes back; closing again does nothing.
    """

    @property
    def slots(self) -> int:
        """How many jobs keep every worker busy; at least one."""
        ...

    def submit(self, job: Job) -> None:
        """Queue a job; returns at once."""
        ...

    def withdraw(self) -> list[Job]:
        """Take back the jobs that wait for a worker, and return them."""
        ...

    def next_finished(self, timeout_s: float) -> tuple[Job, Outcome] | None:
        """Wait for any job to finish; return None when none did in time.

        Raises:
            ClusterLost: no worker is left and none can be started.
        """
        ...

    def close(self) -> None:
        """Stop the workers; jobs in flight are abandoned."""
        ...


@dataclass(frozen=True)
class Start:
    """What a study starts an executor with.

    Attributes:
        worker: builds a worker.
        workers: how many there are to be; None for as many as there is room for.
        gpus: how many GPUs each of them takes.
        address: the cluster to join; None for this machine.
        expected: what every worker's identity must say, as far as the driver knows.
        note: takes a sentence for users, while no worker is up.
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
    """An executor that a study can name, and what it is capable of.

    Attributes:
        start: starts it.
        parallel: several workers measure at once. On a CPU each then computes with one thread, and
            a deterministic study must say how many there are.
        in_driver: its worker lives in the driver's process, and takes over what the driver has
            opened; otherwise workers are built from a pickle.
        joins: it can join a cluster at an address.
        warnings: what users should know before code is sent to an address.
    """

    start: Callable[[Start], Executor]
    parallel: bool = False
    in_driver: bool = False
    joins: bool = False
    warnings: Callable[[str | None], Sequence[str]] = _nothing
