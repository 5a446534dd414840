"""Assign jobs to Ray actors, and replace actors that die or hang."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

from automerge.errors import ClusterLost, DeviceLost, PreflightError, SearchAborted
from automerge.executors.base import WorkerFactory
from automerge.executors.deadline import Deadline
from automerge.executors.identity import differences
from automerge.executors.ray.actor import Actor, Running, Starting
from automerge.executors.ray.cluster import Cluster
from automerge.executors.ray.settings import RaySettings
from automerge.executors.ray.shipping import Shipping
from automerge.trial import Failed, FailureKind, Job, Measured, Outcome, Part, count_items

logger = logging.getLogger(__name__)

RETRIES = 2
"""How many times a job whose worker died is tried again on another worker."""
LOOK_S = 10.0
"""The interval at which the head is checked, and whether there is room for more workers."""


class RayExecutor:
    """Keeps actors, each with at most one job, and replaces those that die or hang.

    A job whose worker dies, or loses its GPU, is tried again on another worker up to `RETRIES`
    times, and then fails with the kind "infra"; one that hangs as often fails with the kind
    "timeout". Jobs are only given to workers that are up: `slots` falls when a node is lost, and
    rises when one joins. If no worker comes up at all, ClusterLost is raised.
    """

    def __init__(
        self,
        factory: WorkerFactory,
        settings: RaySettings,
        note: Callable[[str], None] = logger.warning,
    ) -> None:
        self._cluster = Cluster(settings)
        self._ray = self._cluster.ray
        self._factory = factory
        self._note = note
        self._waits = False
        self._settings = settings
        self._queue: deque[Job] = deque()
        self._starting: dict[Any, Starting] = {}
        self._idle: list[Any] = []
        self._running: dict[Any, Running] = {}
        self._deaths: Counter[tuple[int, Part, int]] = Counter()
        self._deadline = Deadline(settings.min_deadline_s)
        self._identity: Mapping[str, str] = settings.expected
        self._refused: set[str] = set()
        self._lost_in_a_row = 0
        # A Ray of our own is on this machine only.
        self._shipping = Shipping(self._ray, factory if settings.address else None, note)
        self._looked = self._alive = time.monotonic()
        self._wanted = settings.workers or self._capacity()
        self._add_actors(self._wanted)
        if not self._cluster.fits():
            self._say_what_is_missing()

    @property
    def slots(self) -> int:
        """The number of workers that are up; one if none is yet."""
        return max(1, len(self._idle) + len(self._running))

    def _capacity(self) -> int:
        """Return how many workers the cluster has room for, at least one since it may grow."""
        return max(1, self._cluster.fits())

    def _any_placed(self) -> bool:
        """Return whether any worker has its place and is being built."""
        refs = [one.placed for one in self._starting.values()]
        return bool(refs and self._ray.wait(refs, num_returns=1, timeout=0)[0])

    def _say_what_is_missing(self) -> None:
        """Note what workers are waiting for, once until a worker comes up."""
        if not self._waits:
            self._waits = True
            minutes = self._settings.patience_s / 60
            self._note(
                f"{self._cluster.missing()}; waiting up to {minutes:.0f} min for nodes to join"
            )

    def submit(self, job: Job) -> None:
        self._queue.append(job)
        self._dispatch()

    def withdraw(self) -> list[Job]:
        waiting = list(self._queue)
        self._queue.clear()
        return waiting

    def next_finished(self, timeout_s: float) -> tuple[Job, Outcome] | None:
        until = time.monotonic() + timeout_s
        while self._queue or self._running:
            self._look()
            self._dispatch()
            left = max(0.0, until - time.monotonic())
            refs = [*self._running, *self._starting]
            ready, _ = self._ray.wait(refs, num_returns=1, timeout=left)
            if ready and ready[0] in self._starting:
                self._started(ready[0])
            elif ready:
                if (finished := self._finished(ready[0])) is not None:
                    return finished
            elif (finished := self._hung()) is not None:
                return finished
            elif not left:
                break
        return None

    def _look(self) -> None:
        """Follow the cluster's size, and raise ClusterLost if no worker is left."""
        now = time.monotonic()
        if self._idle or self._running:
            self._alive = now
        elif now - self._alive > self._settings.patience_s:
            raise ClusterLost(
                f"no worker became available within {self._settings.patience_s:.0f} s "
                f"({self._cluster.missing()}); run the same command to resume"
            )
        if now - self._looked > LOOK_S:
            self._looked = now
            self._cluster.meet_head()
            if self._shipping.look():
                self._alive = now
            if self._alive < now and not self._any_placed():
                self._say_what_is_missing()
            if self._settings.workers is None:
                self._wanted = self._capacity()
                have = len(self._idle) + len(self._running) + len(self._starting)
                self._add_actors(self._wanted - have)

    def _started(self, ref: Any) -> None:
        actor = self._starting.pop(ref).actor
        ray = self._ray
        try:
            host, identity = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SearchAborted):
                raise error.cause from None
            raise PreflightError(f"a worker could not start: {error.cause or error}") from error
        except ray.exceptions.RayError as error:
            self._replace(actor, error)
        else:
            self._welcome(actor, host, identity)

    def _welcome(self, actor: Any, host: str, identity: Mapping[str, str]) -> None:
        """Accept a worker, unless its scores cannot be compared with those of the others.

        If that is so for the first worker, the study ends before anything is measured; later ones
        are just not used.
        """
        others = {**identity, **self._identity}
        differing = differences(identity, others)
        if not differing:
            self._identity = others
            self._idle.append(actor)
            self._waits = False
            return
        self._ray.kill(actor)
        message = f"a worker on {host} differs from the study: {', '.join(differing)}"
        if not (self._idle or self._running):
            raise PreflightError(f"{message}; use one environment and the same files on all nodes")
        if message not in self._refused:
            self._refused.add(message)
            logger.warning("%s; it is not used", message)

    def _finished(self, ref: Any) -> tuple[Job, Outcome] | None:
        ray = self._ray
        run = self._running.pop(ref)
        try:
            ray.get(run.prepared)
            run.begun = True
            outcome: Outcome = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SearchAborted):
                raise error.cause from None
            if isinstance(error.cause, DeviceLost):
                self._replace(run.actor, error)
                return self._again(run.job, "infra", f"its GPU was lost: {error.cause}")
            outcome = Failed("error", _line(f"{error.cause or error}"), str(error)[-64_000:])
        except (
            ray.exceptions.RayActorError,
            ray.exceptions.WorkerCrashedError,
            ray.exceptions.OutOfMemoryError,
        ) as error:
            self._replace(run.actor, error)
            if not run.begun:
                self._queue.appendleft(run.job)
                return None
            return self._again(run.job, "infra", f"its worker died: {error}")
        except ray.exceptions.RayError as error:
            raise ClusterLost(f"Ray failed: {error}; run the same command to resume") from error
        self._lost_in_a_row = 0
        if isinstance(outcome, Measured):
            self._deadline.saw(count_items(run.job.items), time.monotonic() - run.since)
        self._idle.append(run.actor)
        return run.job, outcome

    def _hung(self) -> tuple[Job, Outcome] | None:
        """Kill a worker that takes far too long; its job is tried again or fails."""
        self._see_begun()
        now = time.monotonic()
        for ref, run in self._running.items():
            if not run.begun:
                continue
            limit_s = self._deadline.limit_s(count_items(run.job.items))
            if limit_s is not None and now - run.since > limit_s:
                del self._running[ref]
                self._exchange(run.actor)
                return self._again(run.job, "timeout", f"no result after {limit_s:.0f} s")
        return None

    def _see_begun(self) -> None:
        """Record which jobs have begun since: their time counts from now."""
        waiting = {run.prepared: run for run in self._running.values() if not run.begun}
        if waiting:
            seen, _ = self._ray.wait([*waiting], num_returns=len(waiting), timeout=0)
            for ref in seen:
                waiting[ref].begun, waiting[ref].since = True, time.monotonic()

    def _again(self, job: Job, kind: FailureKind, reason: str) -> tuple[Job, Outcome] | None:
        key = job.key
        self._deaths[key] += 1
        if self._deaths[key] > RETRIES:
            return job, Failed(kind, _line(f"tried {self._deaths[key]} times; {reason}"))
        self._queue.appendleft(job)
        return None

    def _replace(self, actor: Any, error: Exception) -> None:
        """Start another worker for one that died; raise ClusterLost if too many died in a row."""
        self._lost_in_a_row += 1
        if self._lost_in_a_row > (RETRIES + 1) * self._wanted + RETRIES:
            raise ClusterLost(
                f"{self._lost_in_a_row} workers died in a row, the last with: {error}; "
                "run the same command to resume"
            ) from error
        self._exchange(actor)

    def _exchange(self, actor: Any) -> None:
        """Kill a worker, which must not answer late, and start another in its place."""
        self._cluster.meet_head()
        self._ray.kill(actor)
        self._add_actors(1)

    def _add_actors(self, count: int) -> None:
        settings = self._settings
        remote = self._ray.remote(Actor).options(
            num_cpus=settings.cpus_per_worker,
            num_gpus=settings.gpus_per_worker,
            max_restarts=0,
            max_task_retries=0,
        )
        for _ in range(count):
            actor = remote.remote()
            placed = actor.__ray_ready__.remote()
            ready = actor.ready.remote(self._factory, self._shipping.depot)
            self._starting[ready] = Starting(actor, placed)

    def _dispatch(self) -> None:
        while self._queue and self._idle:
            actor, job = self._idle.pop(0), self._queue.popleft()
            prepared = actor.prepare.remote(job.part)
            ref = actor.measure.remote(job)
            self._running[ref] = Running(actor, job, prepared, time.monotonic())

    def close(self) -> None:
        """Stop our actors, and Ray if we started it; other clusters are left running."""
        if not self._cluster.gone:
            running = [run.actor for run in self._running.values()]
            starting = [one.actor for one in self._starting.values()]
            for actor in [*starting, *self._idle, *running]:
                self._ray.kill(actor)
            self._shipping.close()
        self._starting, self._idle, self._running = {}, [], {}
        self._queue.clear()
        self._cluster.leave()


def _line(text: str) -> str:
    return " ".join(text.split())[:500]
