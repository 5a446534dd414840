"""Reports a search to trackers, without letting them disturb it."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from automerge.objective import Objective
from automerge.report.standing import best_mean
from automerge.study import Observer, Snapshot
from automerge.text.redaction import redact
from automerge.trackers.base import Settings, State, Tracker
from automerge.trackers.table import TRACKERS, Entry

PATIENCE_S, STOPPING_S = 30.0, 2.0
"""How long trackers together may take to send what is left: at the end, and when a search is
stopped immediately."""
WAITING = 10_000
"""How many points may wait for a tracker; more are left out."""
Warn = Callable[[str], None]


class Tracking:
    """Tells trackers, each in a thread of its own, what a search does.

    Whatever a tracker's library raises, or however long it takes, is one warning, and the search
    goes on without that tracker. A run that its `with` block leaves by an error has failed.
    """

    def __init__(self, names: Sequence[str], warn: Warn) -> None:
        self._threads: list[_Thread] = []
        self._begin: Callable[[Tracker], None] | None = None
        self._step = 0
        self._ended: tuple[State, Settings] = ("failed", {})
        for name in names:
            entry = TRACKERS[name]
            if entry.is_installed:
                self._threads.append(_Thread(name, entry, warn))
            else:
                warn(
                    f'tracker {name} is not installed: pip install "automerge-llm[{name}]"; the '
                    "search goes on without it"
                )

    def begin(self, name: str, run: Path, config: Mapping[str, object]) -> None:
        """Prepare a run with a study's configuration; it begins with what is logged first.

        So a study that is refused before its first measurement leaves nothing behind.
        """
        settings = flat(config)
        self._begin = lambda tracker: tracker.begin(name, run, settings)

    def log(self, values: Mapping[str, float]) -> None:
        """Report what has been measured."""
        if self._step == 0 and self._begin is not None:
            for thread in self._threads:
                thread.tell(self._begin)
                thread.start()
        self._step += 1
        step, known = self._step, {k: v for k, v in values.items() if math.isfinite(v)}
        for thread in self._threads:
            thread.tell(lambda tracker: tracker.log(step, known))

    def end(self, state: State, summary: Settings) -> None:
        """Say how the run ends; it does with the `with` block."""
        self._ended = (state, summary)

    def __enter__(self) -> Tracking:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._step == 0:
            return
        state, summary = self._ended
        patience_s = PATIENCE_S
        if isinstance(error, KeyboardInterrupt):
            state, patience_s = "stopped", STOPPING_S
        for thread in self._threads:
            thread.close(lambda tracker: tracker.finish(state, summary))
        deadline = time.monotonic() + patience_s
        for thread in self._threads:
            thread.wait(deadline)


class Tracked:
    """Reports a study's progress to trackers, and hands it on to another observer."""

    def __init__(
        self, tracking: Tracking, objectives: Sequence[Objective], observer: Observer
    ) -> None:
        self._tracking = tracking
        self._objectives = tuple(objectives)
        self._observer = observer

    def update(self, snapshot: Snapshot) -> None:
        phase = snapshot.phase
        values = {f"{phase}/{name}": value for name, value in snapshot.values.items()}
        values |= {f"{phase}/done": snapshot.done, f"{phase}/failed": snapshot.failed}
        parents = {name for name, _ in snapshot.parents}
        merges = [row for row in snapshot.front if row[0] not in parents]
        if phase == "search":
            for name, rows in (("best_mean", merges), ("best_parent_mean", snapshot.parents)):
                if (best := best_mean(self._objectives, rows)) is not None:
                    values[f"search/{name}"] = best[0]
        self._tracking.log(values)
        self._observer.update(snapshot)

    def note(self, message: str) -> None:
        self._observer.note(message)


class _Thread:
    """Calls one tracker, in order, until it fails."""

    def __init__(self, name: str, entry: Entry, warn: Warn) -> None:
        self._name = name
        self._entry = entry
        self._warn = warn
        self._calls: queue.Queue[Callable[[Tracker], None] | None] = queue.Queue(WAITING)
        self._failed = threading.Event()
        self._overflowed = False
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def tell(self, call: Callable[[Tracker], None]) -> None:
        if self._failed.is_set():
            return
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            if not self._overflowed:
                self._overflowed = True
                self._warn(f"tracker {self._name} is too slow; points are left out")

    def close(self, last: Callable[[Tracker], None]) -> None:
        """Let the thread end once it has made its calls, of which this is the last."""
        try:
            for call in (last, None):
                if not self._failed.is_set():
                    self._calls.put(call, timeout=1.0)
        except queue.Full:
            self._failed.set()

    def wait(self, deadline: float) -> None:
        if not self._thread.is_alive():
            return
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._warn(f"tracker {self._name} did not send everything in time; the rest is lost")

    def _work(self) -> None:
        try:
            tracker = self._entry.factory()
            while (call := self._calls.get()) is not None:
                call(tracker)
        except BaseException as error:  # a library may even call sys.exit
            self._failed.set()
            said = redact(" ".join(f"{type(error).__name__}: {error}".split()))[:300]
            self._warn(f"tracker {self._name} failed: {said}; the search goes on without it")


def flat(config: Mapping[str, object], head: str = "") -> dict[str, str | int | float | bool]:
    """Flatten settings: dotted name → value; lists are written as text."""
    found: dict[str, str | int | float | bool] = {}
    for key, value in config.items():
        name = f"{head}{key}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{name}.")
        elif isinstance(value, str | int | float | bool):
            found[name] = value
        elif value is not None:
            found[name] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return found
