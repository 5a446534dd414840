"""Measure on Ray: one persistent actor a worker, no barrier. The only module that imports ray."""

from __future__ import annotations

import os
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

from automerge.errors import ClusterLost, PreflightError
from automerge.executors.base import Worker, WorkerFactory
from automerge.trial import Failed, Job, Outcome

RETRIES = 2
"""How often a job whose worker died is given to a fresh one."""


@dataclass(frozen=True)
class RaySettings:
    """Where the workers run and what each of them takes.

    `workers` None is as many as fit. `address` None starts a Ray of our own on this machine, and
    stops it at the end.
    """

    workers: int | None
    cpus_per_worker: float = 1
    gpus_per_worker: float = 0
    address: str | None = None


class _Actor:
    """Lives in a worker process for as long as the search lasts."""

    def __init__(self, factory: WorkerFactory) -> None:
        self._worker: Worker = factory()

    def measure(self, job: Job) -> Outcome:
        return self._worker.measure(job)


class RayExecutor:
    """Keeps `workers` actors, each with at most one job; replaces those that die.

    A job whose worker dies is tried again on a fresh worker, `RETRIES` times, then it is a failure
    of kind "infra". When no fresh worker comes up at all, ClusterLost is raised.
    """

    def __init__(self, factory: WorkerFactory, settings: RaySettings) -> None:
        import ray

        self._ray = ray
        self._factory = factory
        self._settings = settings
        self._owned = not ray.is_initialized()
        if self._owned:
            _start(settings)
        self._queue: deque[Job] = deque()
        self._running: dict[Any, tuple[Any, Job]] = {}
        self._deaths: Counter[tuple[int, str]] = Counter()
        self._lost_in_a_row = 0
        self.slots = settings.workers or self._capacity()
        self._idle = [self._new_actor() for _ in range(self.slots)]

    def _capacity(self) -> int:
        """How many workers the cluster holds."""
        resources = self._ray.cluster_resources()
        settings = self._settings
        fits = [resources.get("CPU", 1) / settings.cpus_per_worker]
        if settings.gpus_per_worker:
            fits.append(resources.get("GPU", 0) / settings.gpus_per_worker)
        return max(1, int(min(fits)))

    def submit(self, job: Job) -> None:
        self._queue.append(job)
        self._dispatch()

    def next_finished(self, timeout_s: float) -> tuple[Job, Outcome] | None:
        ray = self._ray
        self._dispatch()
        if not self._running:
            return None
        ready, _ = ray.wait(list(self._running), num_returns=1, timeout=timeout_s)
        if not ready:
            return None
        actor, job = self._running.pop(ready[0])
        try:
            outcome: Outcome = ray.get(ready[0])
        except ray.exceptions.RayTaskError as error:
            # The worker's own border turns exceptions into values: this one came from building it.
            raise PreflightError(f"a worker could not start: {error.cause or error}") from error
        except (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError) as error:
            return self._actor_died(job, error)
        except ray.exceptions.RayError as error:
            raise ClusterLost(f"Ray failed: {error}; the same command resumes the study") from error
        self._lost_in_a_row = 0
        self._idle.append(actor)
        self._dispatch()
        return job, outcome

    def _actor_died(self, job: Job, error: Exception) -> tuple[Job, Outcome] | None:
        cause = _creation_failure(error)
        if cause is not None:
            raise PreflightError(f"a worker could not start: {cause}") from error
        key = (job.trial, job.part)
        self._deaths[key] += 1
        self._lost_in_a_row += 1
        if self._lost_in_a_row > (RETRIES + 1) * self.slots + RETRIES:
            raise ClusterLost(
                f"{self._lost_in_a_row} workers died in a row, the last with: {error}; "
                "the same command resumes the study"
            ) from error
        self._idle.append(self._new_actor())
        if self._deaths[key] > RETRIES:
            self._dispatch()
            reason = f"its worker died {self._deaths[key]} times: {error}"
            return job, Failed("infra", " ".join(reason.split())[:500])
        self._queue.appendleft(job)
        self._dispatch()
        return None

    def _new_actor(self) -> Any:
        settings = self._settings
        remote = self._ray.remote(_Actor).options(
            num_cpus=settings.cpus_per_worker,
            num_gpus=settings.gpus_per_worker,
            max_restarts=0,
            max_task_retries=0,
        )
        return remote.remote(self._factory)

    def _dispatch(self) -> None:
        while self._queue and self._idle:
            actor, job = self._idle.pop(0), self._queue.popleft()
            self._running[actor.measure.remote(job)] = (actor, job)

    def close(self) -> None:
        """Stop our actors, and our Ray if we started it; other Rays are left alone."""
        for actor in [*self._idle, *(actor for actor, _ in self._running.values())]:
            self._ray.kill(actor)
        self._idle, self._running = [], {}
        self._queue.clear()
        if self._owned:
            self._ray.shutdown()


def _start(settings: RaySettings) -> None:
    import ray

    threads = str(max(1, int(settings.cpus_per_worker)))
    environment = {
        "OMP_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {}
    if settings.address is None:
        # A machine may have fewer cores than workers were asked for; that is the user's choice.
        wanted = (settings.workers or 1) * settings.cpus_per_worker
        cores = max(wanted, os.cpu_count() or 1)
        options = {"num_cpus": int(-(-cores // 1))}
    try:
        ray.init(
            address=settings.address or "local",
            include_dashboard=False if settings.address is None else None,
            log_to_driver=False,
            configure_logging=False,
            runtime_env={"env_vars": environment},
            **options,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = settings.address or "this machine"
        raise ClusterLost(
            f"no Ray could be reached or started at {where}: {error}; check --ray-address, or "
            "leave it out to use this machine"
        ) from error


def _creation_failure(error: Exception) -> str | None:
    """What the worker's constructor raised, when that is why the actor died."""
    text = str(error)
    if "The actor died because of an error raised in its creation task" not in text:
        return None
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()
