"""Measure on Ray: one persistent actor a worker, no barrier. The only module that imports ray."""

from __future__ import annotations

import atexit
import logging
import os
import platform
import re
import secrets
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from automerge.errors import ClusterLost, DeviceLost, PreflightError, SearchAborted
from automerge.executors.base import Worker, WorkerFactory
from automerge.executors.deadline import LEAST_S, Deadline
from automerge.machine.processors import usable_cpus
from automerge.trial import Failed, FailureKind, Job, Measured, Outcome, Part, count_items

logger = logging.getLogger(__name__)

RETRIES = 2
"""How often a job whose worker died is given to a fresh one."""
LOOK_S = 10.0
"""How often the head is looked for, and asked whether the cluster has room for more workers."""
_PORT = re.compile(r":\d+$")
HEAD_PATIENCE_S = 25.0
"""How long the head may be unreachable; after 60 s Ray would end our process silently."""


@dataclass(frozen=True)
class RaySettings:
    """Where the workers run and what each of them takes.

    `workers` None is as many as fit, which follows a cluster that grows. `address` None starts a
    Ray of our own on this machine, and stops it at the end. Without any worker for `patience_s`
    the cluster counts as lost; no measurement is called hung before `least_deadline_s`. A worker
    whose identity differs from `expected`, or from the first worker's, measures nothing.
    """

    workers: int | None
    cpus_per_worker: float = 1
    gpus_per_worker: float = 0
    address: str | None = None
    patience_s: float = 900.0
    least_deadline_s: float = LEAST_S
    expected: Mapping[str, str] = field(default_factory=dict)


class _Actor:
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
        return self._worker.measure(job)


@dataclass(frozen=True)
class _Starting:
    actor: Any
    placed: Any
    """The reference to what a process returns that has its place, before the worker is built."""


@dataclass
class _Running:
    actor: Any
    job: Job
    prepared: Any
    """The reference to `prepare`'s return."""
    since: float
    """When it was sent, then when it was seen begun, of the monotonic clock."""
    begun: bool = False


class RayExecutor:
    """Keeps actors, each with at most one job; replaces those that die or hang.

    A job whose worker dies, or loses its GPU, is tried again on another worker, `RETRIES` times,
    then it is a failure of kind "infra"; one that hangs is a failure of kind "timeout" after as
    many. Jobs go only to workers that are up: `slots` falls when a node is lost, and rises when one
    joins. When no worker comes up at all, ClusterLost is raised.
    """

    def __init__(
        self,
        factory: WorkerFactory,
        settings: RaySettings,
        note: Callable[[str], None] = logger.warning,
    ) -> None:
        if settings.address is None:
            _demand_a_token()
        import ray

        self._ray = ray
        self._factory = factory
        self._note = note
        self._waits = False
        self._settings = settings
        self._owned = not ray.is_initialized()
        if self._owned:
            _start(settings)
        self._queue: deque[Job] = deque()
        self._starting: dict[Any, _Starting] = {}
        self._idle: list[Any] = []
        self._running: dict[Any, _Running] = {}
        self._deaths: Counter[tuple[int, Part, int]] = Counter()
        self._deadline = Deadline(settings.least_deadline_s)
        self._identity: Mapping[str, str] = settings.expected
        self._refused: set[str] = set()
        self._lost_in_a_row = 0
        self._gone = False
        self._head: str = ray.get_runtime_context().gcs_address
        self._looked = self._alive = time.monotonic()
        self._wanted = settings.workers or self._capacity()
        self._add_actors(self._wanted)
        if not self._fits():
            self._say_what_is_missing()

    @property
    def slots(self) -> int:
        """How many workers are up; one where none is yet."""
        return max(1, len(self._idle) + len(self._running))

    def _capacity(self) -> int:
        """How many workers the cluster holds, or will once it has grown."""
        return max(1, self._fits())

    def _fits(self) -> int:
        """How many workers the cluster has room for, were it free."""
        held = self._ray.cluster_resources()
        return int(min(held.get(what, 0) / needed for what, needed in self._needs().items()))

    def _any_placed(self) -> bool:
        """Whether some worker has its place and is being built."""
        refs = [one.placed for one in self._starting.values()]
        return bool(refs and self._ray.wait(refs, num_returns=1, timeout=0)[0])

    def _needs(self) -> dict[str, float]:
        """What a worker takes."""
        settings = self._settings
        needs = {"CPU": settings.cpus_per_worker, "GPU": settings.gpus_per_worker}
        return {what: needed for what, needed in needs.items() if needed}

    def _say_what_is_missing(self) -> None:
        """Say, once until a worker comes up, what the workers wait for."""
        if not self._waits:
            self._waits = True
            minutes = self._settings.patience_s / 60
            self._note(f"{self._missing()}; waiting up to {minutes:.0f} min for nodes to join")

    def _missing(self) -> str:
        """What the cluster has, what of it is free, and what a worker asks for."""
        held, free = self._ray.cluster_resources(), self._ray.available_resources()
        has = " and ".join(
            f"{_number(held.get(what, 0))} {what}s ({_number(free.get(what, 0))} free)"
            for what in ("CPU", "GPU")
        )
        asked = " and ".join(f"{_number(n)} {what}" for what, n in self._needs().items())
        advice = ""
        if self._settings.gpus_per_worker and not held.get("GPU"):
            advice = "; for workers without a GPU, use --device cpu"
        return f"no worker is up: the cluster has {has}, each worker asks for {asked}{advice}"

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
        """Follow the cluster's size, and notice when no worker is left."""
        now = time.monotonic()
        if self._idle or self._running:
            self._alive = now
        elif now - self._alive > self._settings.patience_s:
            raise ClusterLost(
                f"no worker became available within {self._settings.patience_s:.0f} s "
                f"({self._missing()}); run the same command to resume"
            )
        if now - self._looked > LOOK_S:
            self._looked = now
            self._meet_head()
            if self._alive < now and not self._any_placed():
                self._say_what_is_missing()
            if self._settings.workers is None:
                self._wanted = self._capacity()
                have = len(self._idle) + len(self._running) + len(self._starting)
                self._add_actors(self._wanted - have)

    def _meet_head(self) -> None:
        """Wait until the head can be reached: without it, what is asked of Ray never returns."""
        until = time.monotonic() + HEAD_PATIENCE_S
        while not _listens(self._head):
            if time.monotonic() > until:
                self._gone = True
                raise ClusterLost(
                    f"Ray's head at {self._head} has been unreachable for {HEAD_PATIENCE_S:.0f} s; "
                    "restart it and run the same command to resume"
                )
            time.sleep(1)

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
        """Take a worker on; one whose scores could not be compared with the others' is sent away.

        The first such ends the study before anything is measured; later ones only cost themselves.
        """
        others = {**identity, **self._identity}
        differing = [
            f"{what} {identity.get(what, 'missing')} instead of {wanted}"
            for what, wanted in others.items()
            if identity.get(what) != wanted
        ]
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
        """Kill a worker that takes far too long; its job is tried again or has failed."""
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
        """Note which jobs were begun since: their time counts from here."""
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
        """Start another worker for one that is gone."""
        self._lost_in_a_row += 1
        if self._lost_in_a_row > (RETRIES + 1) * self._wanted + RETRIES:
            raise ClusterLost(
                f"{self._lost_in_a_row} workers died in a row, the last with: {error}; "
                "run the same command to resume"
            ) from error
        self._exchange(actor)

    def _exchange(self, actor: Any) -> None:
        """Start another worker in place of one, which must not answer late."""
        self._meet_head()
        self._ray.kill(actor)
        self._add_actors(1)

    def _add_actors(self, count: int) -> None:
        settings = self._settings
        remote = self._ray.remote(_Actor).options(
            num_cpus=settings.cpus_per_worker,
            num_gpus=settings.gpus_per_worker,
            max_restarts=0,
            max_task_retries=0,
        )
        for _ in range(count):
            actor = remote.remote()
            placed = actor.__ray_ready__.remote()
            self._starting[actor.ready.remote(self._factory)] = _Starting(actor, placed)

    def _dispatch(self) -> None:
        while self._queue and self._idle:
            actor, job = self._idle.pop(0), self._queue.popleft()
            prepared = actor.prepare.remote(job.part)
            ref = actor.measure.remote(job)
            self._running[ref] = _Running(actor, job, prepared, time.monotonic())

    def close(self) -> None:
        """Stop our actors, and our Ray if we started it; other Rays are left alone."""
        if self._gone:
            atexit.register(_leave)
            return
        running = [run.actor for run in self._running.values()]
        starting = [one.actor for one in self._starting.values()]
        for actor in [*starting, *self._idle, *running]:
            self._ray.kill(actor)
        self._starting, self._idle, self._running = {}, [], {}
        self._queue.clear()
        if self._owned:
            self._ray.shutdown()


def _leave() -> None:
    """End the process at once: without a head, Ray's own end hangs and then crashes."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ClusterLost.exit_code)


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=3):
            return True
    except OSError:
        return False


def _number(value: float) -> str:
    return f"{value:g}"


def _line(text: str) -> str:
    return " ".join(text.split())[:500]


def _demand_a_token() -> None:
    """Make a Ray of our own refuse whoever lacks a token drawn for it: it listens to the network.

    Ray reads these variables when it is imported, and gives them to its processes. One imported
    before keeps its own default, which since 2.60 is a token too.
    """
    if "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def cluster_warnings(
    address: str | None, environment: Mapping[str, str] = os.environ
) -> tuple[str, ...]:
    """What to know of a cluster before sending it code."""
    if address is None or environment.get("RAY_AUTH_MODE") == "token":
        return ()
    return (
        f"the Ray cluster at {address} executes code from anyone who can reach it; set "
        "RAY_AUTH_MODE=token there and here, or keep it on a private network",
    )


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
        cores = max(wanted, usable_cpus())
        options = {"num_cpus": int(-(-cores // 1))}
    address = settings.address or ""
    # Ray tries a port where nobody listens for minutes, and then ends the process.
    if _PORT.search(address) and not _listens(address.removeprefix("ray://")):
        raise _unreachable(address, "nobody listens there")
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
        raise _unreachable(settings.address or "this machine", error) from error


def _unreachable(where: str, why: object) -> ClusterLost:
    return ClusterLost(
        f"no Ray could be reached or started at {where}: {why}; check --ray-address and that "
        "RAY_AUTH_TOKEN is the cluster's, or leave the address out to use this machine"
    )
