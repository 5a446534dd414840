"""TensorBoard's event files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from automerge.trackers.base import Settings, State

FOLDER = "tensorboard"


class TensorBoardTracker:
    """Writes event files to RUN/tensorboard, for `tensorboard --logdir RUN`."""

    def __init__(self) -> None:
        self._writer: Any = None

    def begin(self, name: str, run: Path, settings: Settings) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run / FOLDER))
        self._writer.add_text("settings", _table({"name": name, **settings}))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def finish(self, state: State, summary: Settings) -> None:
        self._writer.add_text("summary", _table({"state": state, **summary}))
        self._writer.close()


def _table(values: Settings) -> str:
    rows = (f"| {name} | {str(value).replace('|', ' ')} |" for name, value in values.items())
    return "\n".join(["| key | value |", "|---|---|", *rows])
