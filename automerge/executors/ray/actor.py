"""Workers as Ray actors, being built or at work."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from automerge.executors.base import Travelling, Worker, WorkerFactory
from automerge.executors.ray.delivery import fetch_missing
from automerge.executors.ray.shipping import Remote
from automerge.trial import Job, Outcome, Part


class Actor:
    """Lives in a worker process for as long as the search lasts."""

    def __init__(self) -> None:
        self._worker: Worker

    def ready(self, factory: WorkerFactory, depot: Any = None) -> tuple[str, Mapping[str, str]]:
        """Build the worker, after fetching files that this machine lacks from a depot, if there is
        one; return the host's name and the worker's identity."""
        if depot is not None and isinstance(factory, Travelling):
            factory = factory.relocated(fetch_missing(Remote(depot)))
        self._worker = factory()
        return platform.node(), self._worker.identity()

    def prepare(self, part: Part) -> None:
        """Prepare for a job; that this returned shows that the worker was alive to begin it."""
        self._worker.prepare(part)

    def measure(self, job: Job) -> Outcome:
        """Measure a job."""
        return self._worker.measure(job)


@dataclass(frozen=True)
class Starting:
    """A worker that is being built."""

    actor: Any
    placed: Any
    """The reference that becomes ready once the actor has its place, before its worker is built."""


@dataclass
class Running:
    """A worker with its job."""

    actor: Any
    job: Job
    prepared: Any
    """The reference to what `prepare` returns."""
    since: float
    """When the job was sent, later when it was seen to begin, on the monotonic clock."""
    begun: bool = False
