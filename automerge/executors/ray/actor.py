"""Workers as Ray holds them: an actor each, being built or at work."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from automerge.executors.base import Worker, WorkerFactory
from automerge.trial import Job, Outcome, Part


class Actor:
    """Lives in a worker process for as long as the search lasts."""

    def __init__(self) -> None:
        self._worker: Worker

    def ready(self, factory: WorkerFactory) -> tuple[str, Mapping[str, str]]:
        """Build the worker; return the host's name and the worker's identity."""
        self._worker = factory()
        return platform.node(), self._worker.identity()

    def prepare(self, part: Part) -> None:
        """Comes before every job: that it returned tells that the worker lived to begin one."""
        self._worker.prepare(part)

    def measure(self, job: Job) -> Outcome:
        """Measure a job."""
        return self._worker.measure(job)


@dataclass(frozen=True)
class Starting:
    """A worker that is being built."""

    actor: Any
    placed: Any
    """The reference to what a process returns that has its place, before the worker is built."""


@dataclass
class Running:
    """A worker with its job."""

    actor: Any
    job: Job
    prepared: Any
    """The reference to `prepare`'s return."""
    since: float
    """When it was sent, then when it was seen begun, of the monotonic clock."""
    begun: bool = False
