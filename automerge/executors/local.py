"""Measure in this process, one job at a time."""

from __future__ import annotations

from collections import deque

from automerge.executors.base import Worker, WorkerFactory
from automerge.trial import Job, Outcome


class LocalExecutor:
    """The worker is built at the first job and kept."""

    slots = 1

    def __init__(self, factory: WorkerFactory) -> None:
        self._factory = factory
        self._worker: Worker | None = None
        self._queue: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        self._queue.append(job)

    def withdraw(self) -> list[Job]:
        waiting = list(self._queue)
        self._queue.clear()
        return waiting

    def next_finished(self, timeout_s: float) -> tuple[Job, Outcome] | None:
        """Run the oldest job to its end, regardless of the timeout."""
        del timeout_s
        if not self._queue:
            return None
        if self._worker is None:
            self._worker = self._factory()
        job = self._queue.popleft()
        self._worker.prepare(job.part)
        return job, self._worker.measure(job)

    def close(self) -> None:
        self._queue.clear()
        self._worker = None
