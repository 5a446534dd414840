"""Measure on Ray: one persistent actor per worker, no barrier. Ray is imported only here."""

from automerge.executors.ray.cluster import cluster_warnings
from automerge.executors.ray.executor import RETRIES, RayExecutor
from automerge.executors.ray.settings import RaySettings

__all__ = ["RETRIES", "RayExecutor", "RaySettings", "cluster_warnings"]
