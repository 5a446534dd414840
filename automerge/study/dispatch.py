"""Jobs out, outcomes in: never more at a time than the workers can take."""

from __future__ import annotations

from collections.abc import Callable

from automerge.executors.base import Executor
from automerge.trial import Job, Outcome

POLL_S = 0.5


class Dispatcher:
    """Starts the executor at the first job; a result counts once, and only while it is awaited."""

    def __init__(self, start: Callable[[], Executor]) -> None:
        self._start = start
        self._executor: Executor | None = None
        self._in_flight: set[object] = set()

    @property
    def slots(self) -> int:
        """The number of jobs that keep every worker busy."""
        return self._ready().slots

    @property
    def running(self) -> int:
        """The number of jobs in flight."""
        return len(self._in_flight)

    @property
    def free(self) -> bool:
        """Whether a worker is idle."""
        return self.running < self.slots

    def submit(self, job: Job) -> None:
        """Send a job out; returns at once."""
        self._in_flight.add(job.key)
        self._ready().submit(job)

    def withdraw(self) -> None:
        """Take back the jobs that no worker has begun: they are asked for again on resuming."""
        if self._executor is not None:
            for job in self._executor.withdraw():
                self._in_flight.discard(job.key)

    def collect(self) -> tuple[Job, Outcome] | None:
        """Wait briefly for a job to finish; return None when none did."""
        finished = self._ready().next_finished(timeout_s=POLL_S)
        if finished is None or finished[0].key not in self._in_flight:
            return None  # nothing, or a late answer from a worker that was abandoned
        self._in_flight.remove(finished[0].key)
        return finished

    def close(self) -> None:
        """Stop the workers."""
        if self._executor is not None:
            self._executor.close()

    def _ready(self) -> Executor:
        if self._executor is None:
            self._executor = self._start()
        return self._executor
