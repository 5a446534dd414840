"""Executors: where jobs are measured."""

from automerge.executors.base import Executor, Launcher, Start, Worker, WorkerFactory
from automerge.executors.table import EXECUTORS

__all__ = ["EXECUTORS", "Executor", "Launcher", "Start", "Worker", "WorkerFactory"]
