"""Where Ray's workers run, and the resources each of them takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from automerge.executors.deadline import MIN_S


@dataclass(frozen=True)
class RaySettings:
    """Where the workers run, and the resources each of them takes.

    If `workers` is None, there are as many as fit, even as the cluster grows. If `address` is None,
    Ray is started on this machine and stopped at the end. Without any worker for `patience_s`, the
    cluster counts as lost; no measurement counts as hung before `min_deadline_s`. A worker whose
    identity differs from `expected`, or from the first worker's, measures nothing.
    """

    workers: int | None
    cpus_per_worker: float = 1
    gpus_per_worker: float = 0
    address: str | None = None
    patience_s: float = 900.0
    min_deadline_s: float = MIN_S
    expected: Mapping[str, str] = field(default_factory=dict)
