"""The executors, by their names in `executor:`; each imports what it needs when it starts."""

from __future__ import annotations

from collections.abc import Sequence

from automerge.executors.base import Executor, Launcher, Start
from automerge.extensions import Table


def _local(start: Start) -> Executor:
    from automerge.executors.local import LocalExecutor

    return LocalExecutor(start.worker)


def _ray(start: Start) -> Executor:
    from automerge.executors.ray import RayExecutor, RaySettings

    settings = RaySettings(
        start.workers,
        gpus_per_worker=start.gpus,
        address=start.address,
        expected=start.expected,
    )
    return RayExecutor(start.worker, settings, start.note)


def _ray_warnings(address: str | None) -> Sequence[str]:
    from automerge.executors.ray import cluster_warnings

    return cluster_warnings(address)


def _admit(name: str, outside: object) -> Launcher:
    """Accept an executor from outside the package; raise TypeError for anything else."""
    del name
    if not isinstance(outside, Launcher):
        raise TypeError(f"expected an automerge.executors.Launcher, got {type(outside).__name__}")
    return outside


EXECUTORS: Table[Launcher] = Table(
    "executor",
    {
        "local": Launcher(_local, in_driver=True),
        "ray": Launcher(_ray, parallel=True, joins=True, warnings=_ray_warnings),
    },
    "automerge.executors",
    _admit,
)
