"""Where Ray's workers run, and what each of them takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from automerge.executors.deadline import MIN_S


@dataclass(frozen=True)
class RaySettings:
    """Where the workers run and what each of them takes.

    `workers` None is as many as fit, which follows a cluster that grows. `address` None starts a
    Ray of our own on this machine, and stops it at the end. Without any worker for `patience_s`
    the cluster counts as lost; no measurement is called hung before `min_deadline_s`. A worker
    whose identity differs from `expected`, or from the first worker's, measures nothing.
    """

    workers: int | None
    cpus_per_worker: float = 1
    gpus_per_worker: float = 0
    address: str | None = None
    patience_s: float = 900.0
    min_deadline_s: float = MIN_S
    expected: Mapping[str, str] = field(default_factory=dict)
