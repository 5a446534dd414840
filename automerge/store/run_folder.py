"""Who writes to a run folder, and how its disk makes writes durable."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from automerge.errors import StateError

LOCK = "study.lock"
OWNER = "study.owner"
LOG = "log.txt"
PATIENCE_S = 0.5
"""How long a writer waits for the lock: longer than a reader holds it while asking for it."""

LOCAL_FILE_SYSTEMS = ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "overlay")
"""Where SQLite's write-ahead log works, which needs memory shared by all who open the file."""


OWN = (
    *("study.", "front.json", "report.html", "optuna.journal", "test_samples.json"),
    "automerge.yaml",
    LOG,
)
"""The beginnings of the names of automerge's own files in a run folder."""
OWN_FOLDERS = ("models", "adapters", "tasks", "items", "recipes")
MAX_OWNER_BYTES = 10_000


def check_own_files(run: Path) -> None:
    """Refuse links, pipes and devices in place of automerge's own files and folders.

    Writing through a link would change a file elsewhere; reading a pipe or a device may never end.

    Raises:
        StateError: there is one.
    """
    try:
        found = [entry for entry in os.scandir(run) if entry.name.startswith((*OWN, *OWN_FOLDERS))]
    except OSError:
        return
    for entry in found:
        is_folder = entry.name in OWN_FOLDERS
        if is_folder and entry.is_dir(follow_symlinks=False):
            continue
        if not entry.name.startswith(OWN) and not is_folder:
            continue
        if not entry.is_file(follow_symlinks=False) or is_folder:
            kind = "a link" if entry.is_symlink() else "of another kind"
            expected = "folder" if is_folder else "plain file"
            raise StateError(
                f"{entry.path} is {kind}; expected a {expected} of automerge's own: remove it or "
                "choose another run folder"
            )


class RunLock:
    """The right to write to a run folder, which ends with the process that holds it.

    Raises:
        StateError: another process holds it, which the message names, or the folder cannot be
            locked.
    """

    def __init__(self, run: Path) -> None:
        self._owner = run / OWNER
        self._lock = FileLock(run / LOCK, timeout=PATIENCE_S)
        try:
            self._lock.acquire(poll_interval=0.02)
            self._owner.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with os.fdopen(os.open(self._owner, flags, 0o644), "w") as file:
                file.write(json.dumps(_ourselves()))
        except Timeout:
            holder = owner(run)
            raise StateError(
                f"{run} is in use by process {holder.get('pid', '?')} on "
                f"{holder.get('host', 'an unknown host')} since {holder.get('since', '?')}; "
                "wait for it, stop it, or choose another --out" + _restarted(holder)
            ) from None
        except NotImplementedError as error:
            raise StateError(
                f"the file system of {run} cannot lock files; choose an --out on another one"
            ) from error
        except OSError as error:
            self._lock.release()
            raise StateError(
                f"cannot write to {run}: {error.strerror}; choose another --out"
            ) from error

    def release(self) -> None:
        """Let others write."""
        self._owner.unlink(missing_ok=True)
        self._lock.release()


def journal_mode(run: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """Return SQLite's journal mode for a folder: a log on a local disk, else a rollback journal.

    The log makes a transaction durable with one write to disk instead of four, but does not work
    over a network, so it is not used on unknown file systems either.
    """
    try:
        lines = [line.split() for line in mounts.read_text(errors="replace").splitlines()]
    except OSError:
        return "DELETE"
    folder = run.resolve()
    found = ""
    nearest = -1
    for _, point, kind, *_ in lines:
        place = Path(point.encode().decode("unicode_escape").encode("latin-1").decode())
        if folder.is_relative_to(place) and len(place.parts) >= nearest:
            found, nearest = kind, len(place.parts)
    return "WAL" if found in LOCAL_FILE_SYSTEMS else "DELETE"


def _ourselves() -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "boot": _boot(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _boot() -> str:
    """Return what identifies this boot of the machine; "" if the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _restarted(holder: Mapping[str, object]) -> str:
    """Return a hint for file servers that keep the lock of a process that is gone."""
    ours = _ourselves()
    if holder.get("host") != ours["host"] or holder.get("boot") == ours["boot"]:
        return ""
    return (
        ". That process ended when this machine restarted, but the file server still holds its "
        f"lock; delete {LOCK}"
    )


def is_running(run: Path) -> bool:
    """Return whether a live process, on any host, is writing the study."""
    try:
        descriptor = os.open(run / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return bool(owner(run))
    finally:
        os.close(descriptor)
    return False


def owner(run: Path) -> Mapping[str, object]:
    """Return process, host, boot and time of the writer; empty if there is none."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        with os.fdopen(os.open(run / OWNER, flags), "rb") as file:
            holder = json.loads(file.read(MAX_OWNER_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}
