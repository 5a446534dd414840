"""RUN/log.txt: what a search said and when, for the morning after."""

from __future__ import annotations

import os
import stat
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from automerge.commands.progress import PHASES
from automerge.errors import AutomergeError
from automerge.files.shared import without_places
from automerge.store.run_folder import LOG
from automerge.study import Observer, Snapshot
from automerge.text.terminal import harmless

_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
_INDENT = " " * len("2026-01-01T00:00:00Z  ")
_RESUME = "the same command resumes"


class RunLog:
    """Appends lines with their time in UTC; closed by its `with` block, which logs the error.

    Neither a full disk nor a file that cannot be written disturbs a search: `warn` is told once,
    and nothing more is logged. Links are not followed. Lines hold no secrets and do not say
    where the run folder, the working directory and the home are; further lines of one
    message are indented.
    """

    def __init__(self, run: Path, warn: Callable[[str], None]) -> None:
        self._run = run
        self._warn = warn
        self._file: int | None = None
        try:
            self._file = _opened(run / LOG)
        except OSError as error:
            self._give_up(error)

    def write(self, *messages: str) -> None:
        """Append messages, one after another."""
        for message in messages:
            if self._file is None:
                return
            text = harmless(without_places(message, self._run)).replace("\n", f"\n{_INDENT}")
            rest = f"{datetime.now(UTC).strftime(_FORMAT)}  {text}\n".encode()
            try:
                while rest:
                    rest = rest[os.write(self._file, rest) :]
            except OSError as error:
                self._give_up(error)

    def close(self) -> None:
        """Log nothing more."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if isinstance(error, AutomergeError):
            self.write(f"failed: {error}")
        elif isinstance(error, KeyboardInterrupt):
            self.write(f"stopped immediately; {_RESUME}")
        elif error is not None:
            self.write("failed: " + "".join(traceback.format_exception(error)).rstrip())
        self.close()

    def _give_up(self, error: OSError) -> None:
        self.close()
        why = error.strerror or str(error)
        self._warn(f"{self._run / LOG} cannot be written: {why}; the search goes on without a log")


class Logged:
    """Logs a study's progress, and hands it on to another observer."""

    def __init__(self, log: RunLog, observer: Observer) -> None:
        self._log = log
        self._observer = observer
        self._phase: str | None = None

    def update(self, snapshot: Snapshot) -> None:
        phase = PHASES[snapshot.phase]
        if phase != self._phase:
            self._phase = phase
            self._log.write(f"phase       {phase}, workers: {snapshot.slots}")
        self._log.write(f"{phase} {snapshot.done}/{snapshot.total}  {snapshot.last}")
        self._observer.update(snapshot)

    def note(self, message: str) -> None:
        self._log.write(f"note: {message}")
        self._observer.note(message)


def ending(stopped: bool, exported: Sequence[str]) -> list[str]:
    """Return the last lines of a search that was not ended by an error."""
    if stopped:
        return [f"stopped by a signal; {_RESUME}"]
    return [*(f"exported    {name}" for name in exported), "finished"]


def _opened(path: Path) -> int:
    """Open a plain file for appending; a line that a killed process left torn is ended first."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    file = os.open(path, flags, 0o666)
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise OSError("it is not a regular file")
        if found.st_size and os.pread(file, 1, found.st_size - 1) != b"\n":
            os.write(file, b"\n")
    except BaseException:
        os.close(file)
        raise
    return file
