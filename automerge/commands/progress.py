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
from automerge.report.standing import order, shown, standing
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
        self._clock = _Clock()

    def update(self, snapshot: Snapshot) -> None:
        counted = f"{PHASES[snapshot.phase]} {snapshot.done}/{snapshot.total}"
        self._clock.update(snapshot)
        left = self._clock.left
        whole = "" if left is None else f"  (about {duration(left)} left)"
        say(self._console, f"{counted}  {snapshot.last}{whole}")

    def note(self, message: str) -> None:
        say(self._console, f"note: {message}")


class LiveView:
    """Redraws in place a bar, the time left, pace and device, and how the search stands."""

    def __init__(self, live: Live, objectives: Sequence[Objective], device: str) -> None:
        self._live = live
        self._objectives = tuple(objectives)
        self._device = device
        self._clock = _Clock()
        self._bar = Progress(
            TextColumn("[bold]{task.description:>10}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[left]}"),
        )
        self._task = self._bar.add_task("starting", total=None, completed=0, left="")

    def update(self, snapshot: Snapshot) -> None:
        clock = self._clock
        clock.update(snapshot)
        phase = "" if clock.phase_left is None else f"{duration(clock.phase_left)} left"
        self._bar.update(
            self._task,
            description=PHASES[snapshot.phase],
            total=snapshot.total,
            completed=snapshot.done,
            left=phase,
        )
        parents = {name for name, _ in snapshot.parents}
        merges = [row for row in snapshot.front if row[0] not in parents]
        stands = standing(self._objectives, merges, snapshot.parents)
        lines = [_line(self._times()), _line(self._workers(snapshot))]
        if stands:
            lines.append(_line(stands))
        lines.append(_line(f"last  {snapshot.last}", "dim"))
        self._live.update(Group(self._bar, *lines, self._front(snapshot)))

    def note(self, message: str) -> None:
        self._live.console.print(f"note: {message}", markup=False)

    def _times(self) -> str:
        clock = self._clock
        parts = [f"{duration(clock.elapsed)} so far"]
        if clock.left is not None:
            parts.append(f"about {duration(clock.left)} left, with selection and test")
        if clock.per_minute is not None:
            parts.append(f"{clock.per_minute:.3g} models a minute")
        return ", ".join(parts)

    def _workers(self, snapshot: Snapshot) -> str:
        failed = f", {snapshot.failed} failed" if snapshot.failed else ""
        return f"on {self._device}, {snapshot.running} of {snapshot.slots} workers busy{failed}"

    def _front(self, snapshot: Snapshot) -> Table:
        title = f"front so far: {len(snapshot.front)} (search items)"
        table = Table(title=title, title_style="")
        table.add_column("model")
        for objective in self._objectives:
            table.add_column(Text(objective.name), justify="right")
        rows = order(self._objectives, snapshot.front)
        for name, values in (snapshot.front[row] for row in rows[:_ROWS]):
            table.add_row(Text(name), *map(shown, values))
        if len(rows) > _ROWS:
            table.add_row(f"… {len(rows) - _ROWS} more", *("" for _ in self._objectives))
        return table


def _line(text: str, style: str = "") -> Text:
    return Text(redact(text), style=style, no_wrap=True, overflow="ellipsis")


class _Clock:
    """Estimates the time left, from the pace of the current phase and what follows it.

    Attributes:
        phase_left: seconds to the end of the phase; None while its pace is unknown.
        left: the same to the end of the whole run.
        per_minute: models measured a minute in this phase.
    """

    def __init__(self) -> None:
        self.phase_left: float | None = None
        self.left: float | None = None
        self.per_minute: float | None = None
        self._begun = time.monotonic()
        self._phase = ""
        self._start = (0.0, 0)

    @property
    def elapsed(self) -> float:
        """Seconds since this run began to measure."""
        return time.monotonic() - self._begun

    def update(self, snapshot: Snapshot) -> None:
        now = time.monotonic()
        if snapshot.phase != self._phase:
            self._phase, self._start = snapshot.phase, (now, snapshot.done)
        started, done = self._start
        if snapshot.done <= done or now <= started:
            self.phase_left = self.left = self.per_minute = None
            return
        pace = (now - started) / (snapshot.done - done)
        self.per_minute = 60 / pace
        self.phase_left = pace * max(0, snapshot.total - snapshot.done)
        self.left = self.phase_left + snapshot.later_s


def duration(seconds: float) -> str:
    """Return seconds in words: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@contextmanager
def watching(console: Console, objectives: Sequence[Objective], device: str) -> Iterator[Observer]:
    """Show the live view on a terminal, plain lines elsewhere.

    Args:
        console: where it is shown.
        objectives: the study's.
        device: what models run on, in a word.
    """
    if not console.is_terminal:
        yield Lines(console)
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield LiveView(live, objectives, device)
