"""MLflow."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from automerge.trackers.base import PROJECT, Settings, State

STATUS: Mapping[State, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
MAX_VALUE = 500
"""The longest value of a parameter, in characters: MLflow's limit in older servers."""
MAX_BATCH = 100
"""How many parameters a call may have."""


class MlflowTracker:
    """Reports to MLflow: to MLFLOW_TRACKING_URI, or to a database, RUN/mlflow.db."""

    def __init__(self) -> None:
        self._client: Any = None
        self._run = ""

    def begin(self, name: str, run: Path, settings: Settings) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", store_uri(run)))
        wanted = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(wanted)
        experiment = found.experiment_id if found else self._client.create_experiment(wanted)
        self._run = self._client.create_run(experiment, run_name=name).info.run_id
        params = [Param(_name(k), str(v)[:MAX_VALUE]) for k, v in settings.items()]
        for first in range(0, len(params), MAX_BATCH):
            self._client.log_batch(self._run, params=params[first : first + MAX_BATCH])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(_name(k), v, now, step) for k, v in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def finish(self, state: State, summary: Settings) -> None:
        for key, value in {"state": state, **summary}.items():
            self._client.set_tag(self._run, _name(key), str(value))
        self._client.set_terminated(self._run, STATUS[state])


def store_uri(run: Path) -> str:
    """Return where runs are kept unless the environment says otherwise: RUN/mlflow.db."""
    return f"sqlite:///{(run / 'mlflow.db').absolute()}"


def _name(text: str) -> str:
    """Return a name that MLflow allows."""
    return re.sub(r"[^\w\-. /]", "_", text)
