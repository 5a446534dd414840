"""Errors a user can act on, each with the exit code of the command that meets it."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space left on the disk, quota exceeded, or file too large."""


@dataclass(frozen=True, order=True)
class Location:
    """Where a value was written: a file with line and column (from 1), or an option's name."""

    source: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        numbers = (str(n) for n in (self.line, self.column) if n is not None)
        return ":".join((self.source, *numbers))


Locate: TypeAlias = Callable[[Sequence[str | int]], Location | None]
"""Finds where a value was written, by the keys and positions that lead to it."""


@dataclass(frozen=True)
class Fault:
    """One thing wrong with the input: what, expected, got, and what to do, in one message."""

    message: str
    location: Location | None = None

    def __str__(self) -> str:
        return self.message if self.location is None else f"{self.location}: {self.message}"


class AutomergeError(Exception):
    """Base of every error that is the user's or the machine's, not a bug in automerge."""

    exit_code: ClassVar[int] = 3
    """Defined in docs/exit_codes.md; 1 means a bug, so no class here has it."""


class FaultyInput(AutomergeError):
    """Faults found together, printed one per line."""

    def __init__(self, faults: Fault | str | Iterable[Fault]) -> None:
        if isinstance(faults, str):
            faults = Fault(faults)
        self.faults: tuple[Fault, ...] = (faults,) if isinstance(faults, Fault) else tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))

    def __reduce__(self) -> tuple[type[FaultyInput], tuple[tuple[Fault, ...]]]:
        return type(self), (self.faults,)  # pickles with its faults, not with its text


class ConfigError(FaultyInput):
    """The command line, the configuration or a recipe is wrong."""

    exit_code = 2


class PreflightError(FaultyInput):
    """The configuration is sound, but the models, tasks, disk or devices do not allow it."""

    exit_code = 3


class SearchAborted(AutomergeError):
    """Too many failures, or no valid candidate."""

    exit_code = 4


class ModelsChanged(SearchAborted):
    """A model's files are no longer those that the study was started with."""


class WeightsDiffer(AutomergeError):
    """An exported model would not be the one that was scored."""

    exit_code = 4


class StateError(AutomergeError):
    """The run folder is locked, damaged, or belongs to another configuration."""

    exit_code = 5


class ClusterLost(AutomergeError):
    """No worker is left; the study can be resumed."""

    exit_code = 6


class DeviceLost(ClusterLost):
    """A GPU no longer responds to this process; a new process may be able to use it."""


def disk_is_full(error: BaseException) -> bool:
    """Return whether an error, or one of its causes, says that a disk is full."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            # shutil.copytree collects the errors it met as a list of messages, without an errno.
            texts = str(cause) if cause.errno is None else f"[Errno {cause.errno}]"
            if any(f"[Errno {number}]" in texts for number in DISK_FULL):
                return True
        cause = cause.__cause__ or cause.__context__
    return False


def nearest(name: str, valid: Sequence[str]) -> str:
    """Return "; did you mean 'x'?" when a valid name is close, else a list of the valid names.

    A list of more than 20 names is left out.
    """
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    if len(valid) > 20:
        return ""
    return f"; choose from {', '.join(map(repr, valid))}" if valid else ""
