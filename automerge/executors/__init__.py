"""Executors: where jobs are measured."""

from automerge.executors.base import (
    Executor,
    Files,
    Launcher,
    Start,
    Travelling,
    Worker,
    WorkerFactory,
    outcome_of,
)
from automerge.executors.table import EXECUTORS

__all__ = [
    "EXECUTORS",
    "Executor",
    "Files",
    "Launcher",
    "Start",
    "Travelling",
    "Worker",
    "WorkerFactory",
    "outcome_of",
]
