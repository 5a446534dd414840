"""Trackio, of Hugging Face."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from automerge.trackers.base import PROJECT, Settings, State


class TrackioTracker:
    """Reports to Trackio: to its local database, or the Space that TRACKIO_SPACE_ID names."""

    def __init__(self) -> None:
        self._trackio: Any = None

    def begin(self, name: str, run: Path, settings: Settings) -> None:
        import trackio

        self._trackio = trackio
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        trackio.init(project=project, name=name, config=dict(settings), embed=False)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._trackio.log(dict(values), step=step)

    def finish(self, state: State, summary: Settings) -> None:
        self._trackio.log({"state": state, **summary})
        self._trackio.finish()
