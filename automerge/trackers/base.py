"""What a tracker is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

Settings: TypeAlias = Mapping[str, str | int | float | bool]
"""A study's settings by dotted name, without secrets."""

State: TypeAlias = Literal["finished", "stopped", "failed"]
PROJECT = "automerge"
"""The project or experiment of runs, unless the tracker's own environment names one."""


class Tracker(Protocol):
    """Reports one run of a search to a tracker; all calls come from one thread, in this order.

    Every method may raise whatever the tracker's library does: the caller warns and goes on.
    """

    def begin(self, name: str, run: Path, settings: Settings) -> None:
        """Begin a run; files of the tracker's own go below the run folder if it keeps any."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Report metrics; steps increase."""

    def finish(self, state: State, summary: Settings) -> None:
        """End the run, with what was found."""


Factory: TypeAlias = Callable[[], Tracker]
