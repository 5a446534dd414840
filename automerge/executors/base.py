"""The contract every executor keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

from automerge.trial import Job, Outcome, Part


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
"""Picklable; called once in the process that measures."""


class Executor(Protocol):
    """Runs jobs on workers. Failure is a value; lost workers are replaced inside."""

    @property
    def slots(self) -> int:
        """How many jobs keep every worker busy."""

    def submit(self, job: Job) -> None:
        """Queue a job; returns at once."""

    def withdraw(self) -> list[Job]:
        """Take back the jobs that wait for a worker, and return them."""

    def next_finished(self, timeout_s: float) -> tuple[Job, Outcome] | None:
        """Wait for any job to finish; None when none did in time.

        Raises ClusterLost when no worker is left and none can be started.
        """

    def close(self) -> None:
        """Stop the workers; jobs in flight are abandoned."""
