"""Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from automerge.trackers.base import PROJECT, Settings, State


class WandbTracker:
    """Reports to Weights & Biases; WANDB_MODE=offline keeps it below the run folder."""

    def __init__(self) -> None:
        self._run: Any = None

    def begin(self, name: str, run: Path, settings: Settings) -> None:
        import wandb

        quiet = wandb.Settings(silent=True, console="off", disable_git=True, save_code=False)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=name,
            dir=str(run),
            config=dict(settings),
            settings=quiet,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def finish(self, state: State, summary: Settings) -> None:
        self._run.summary.update({"state": state, **summary})
        self._run.finish(exit_code=1 if state == "failed" else 0)
