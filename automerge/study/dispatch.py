"""Jobs out, outcomes in: at most as many at a time as the workers can take."""

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
        """How many jobs keep every worker busy."""
        return self._ready().slots

    @property
    def running(self) -> int:
        """How many jobs are out."""
        return len(self._in_flight)

    @property
    def free(self) -> bool:
        """Whether a worker has nothing to do."""
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
        """Wait a moment for a job to finish; None when none did."""
        finished = self._ready().next_finished(timeout_s=POLL_S)
        if finished is None or finished[0].key not in self._in_flight:
            return None  # nothing, or a late answer of a worker that was given up
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
