"""What is shown while a search runs: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from automerge.objective import Objective
from automerge.study import Observer, Snapshot
from automerge.text.redaction import redact
from automerge.text.say import say

PHASES = {"search": "searching", "select": "selecting", "test": "testing", "explain": "explaining"}
_ROWS = 8


class Silent:
    """Shows nothing; for use as a library."""

    def update(self, snapshot: Snapshot) -> None: ...

    def note(self, message: str) -> None: ...


class Lines:
    """Prints one line per finished measurement, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def update(self, snapshot: Snapshot) -> None:
        counted = f"{PHASES[snapshot.phase]} {snapshot.done}/{snapshot.total}"
        say(self._console, f"{counted}  {snapshot.last}")

    def note(self, message: str) -> None:
        say(self._console, f"note: {message}")


class LiveView:
    """Redraws in place a bar with the time left, counts, and the front so far."""

    def __init__(self, live: Live, objectives: Sequence[Objective]) -> None:
        self._live = live
        self._objectives = tuple(objectives)
        self._clock = _Clock()
        self._bar = Progress(
            TextColumn("[bold]{task.description:>10}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[left]}"),
        )
        self._task = self._bar.add_task("starting", total=None, completed=0, left="")

    def update(self, snapshot: Snapshot) -> None:
        left = self._clock.left(snapshot)
        self._bar.update(
            self._task,
            description=PHASES[snapshot.phase],
            total=snapshot.total,
            completed=snapshot.done,
            left=left,
        )
        failed = f"  [red]{snapshot.failed} failed[/]" if snapshot.failed else ""
        counts = Text.from_markup(f"workers {snapshot.running}/{snapshot.slots}{failed}")
        last = Text(
            redact(f"last  {snapshot.last}"), style="dim", no_wrap=True, overflow="ellipsis"
        )
        self._live.update(Group(self._bar, counts, last, self._front(snapshot)))

    def note(self, message: str) -> None:
        self._live.console.print(f"note: {message}", markup=False)

    def _front(self, snapshot: Snapshot) -> Table:
        table = Table(title=f"front so far: {len(snapshot.front)} (search items)", title_style="")
        table.add_column("model")
        for objective in self._objectives:
            table.add_column(Text(objective.name), justify="right")
        front = sorted(snapshot.front, key=lambda row: -sum(row[1]))
        for name, values in front[:_ROWS]:
            table.add_row(Text(name), *(f"{value:.3f}" for value in values))
        if len(front) > _ROWS:
            table.add_row(f"… {len(front) - _ROWS} more", *("" for _ in self._objectives))
        return table


class _Clock:
    """Estimates the time left from the pace of the current phase."""

    def __init__(self) -> None:
        self._phase = ""
        self._start = (0.0, 0)

    def left(self, snapshot: Snapshot) -> str:
        now = time.monotonic()
        if snapshot.phase != self._phase:
            self._phase, self._start = snapshot.phase, (now, snapshot.done)
            return ""
        started, done = self._start
        if snapshot.done <= done:
            return ""
        pace = (now - started) / (snapshot.done - done)
        return f"{duration(pace * max(0, snapshot.total - snapshot.done))} left"


def duration(seconds: float) -> str:
    """Return seconds in words: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@contextmanager
def watching(console: Console, objectives: Sequence[Objective]) -> Iterator[Observer]:
    """Show the live view on a terminal, plain lines elsewhere."""
    if not console.is_terminal:
        yield Lines(console)
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield LiveView(live, objectives)
