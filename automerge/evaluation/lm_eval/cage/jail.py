"""Lock the process in for good: own namespaces, empty root, another user, few system calls."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import stat
import struct
import sys
from pathlib import Path

from automerge.evaluation.lm_eval.cage import syscalls

MEMORY, DESCRIPTORS, WRITTEN, THREADS = 4 * 2**30, 64, 2**24, 64
"""The most that a program may use: bytes of memory, descriptors, bytes on disk, threads."""
FOLDER = "/tmp"
"""Where a program may write, in its own file system, which ends with it."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
FIRST_USER, NOBODY = 0x70000000, 65534

NEW_MOUNTS, NEW_CGROUP, NEW_UTS, NEW_IPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
NEW_USER, NEW_PIDS, NEW_NET = 0x10000000, 0x20000000, 0x40000000
PRIVATE, RECURSIVE, NO_SUID, NO_DEVICES, DETACH = 1 << 18, 1 << 14, 2, 4, 2
OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442
CLONE_TREE, CLOSE_ON_EXEC, EMPTY_PATH, AT_RECURSIVE, HERE = 1, os.O_CLOEXEC, 0x1000, 0x8000, -100
READ_ONLY_MOUNT = 1 | 2 | 4
"""Read-only, no setuid programs, no devices."""
PIVOT_ROOT, CAPSET = {"x86_64": (155, 126), "aarch64": (41, 91)}.get(platform.machine(), (0, 0))

SET_PARENT_DEATH, SET_DUMPABLE, SET_SECCOMP, SET_NO_NEW_PRIVILEGES = 1, 4, 22, 38
FILTER, SIGKILL, CAPABILITIES_3 = 2, 9, 0x20080522

LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT, LANDLOCK_VERSION = 444, 445, 446, 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""All rights on files that a version of Landlock knows, from that version on."""
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | 1 << 14 | 1 << 15
"""Those that a rule about a file, not a folder, may hold."""
IN_FOLDER = READ_FILE | WRITE_FILE | READ_DIR | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 14
"""Reading, writing, and making, renaming and removing plain files and folders."""


class Unsupported(Exception):
    """The system lacks something that the cage needs."""


class Library:
    """Functions of the C library that Python does not have; Unsupported where one fails."""

    def __init__(self) -> None:
        self._c = ctypes.CDLL(None, use_errno=True)

    def call(self, name: str, *arguments: object) -> int:
        """Call a function and return its result; raise Unsupported if it fails."""
        found: int = getattr(self._c, name)(*arguments)
        if found < 0:
            raise Unsupported(f"{name}: {os.strerror(ctypes.get_errno())}")
        return found

    def system(self, number: int, *arguments: object) -> int:
        """Make a system call and return its result; raise Unsupported if it fails."""
        plain = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
        return self.call("syscall", ctypes.c_long(number), *plain)

    def can(self, name: str, *arguments: object) -> bool:
        """Call a function and return whether it succeeds."""
        try:
            self.call(name, *arguments)
        except Unsupported:
            return False
        return True


def readable() -> list[str]:
    """Return what a program may read: interpreter, packages and the system's libraries."""
    own = {sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path}
    own |= {os.path.realpath(path) for path in own}
    own |= {"/usr", "/lib", "/lib64", "/etc/ld.so.cache"}
    found: list[str] = []
    for path in sorted(path for path in own if Path(path).exists()):
        if not any(path.startswith(f"{other}/") for other in found):
            found.append(path)
    return found


def other_user(number: int) -> int | None:
    """Return the user that root becomes: a new one, or nobody; None if not root outside."""
    if os.geteuid() != 0:
        return None
    users, groups = (
        [
            tuple(map(int, line.split()))
            for line in Path("/proc/self", name).read_text().splitlines()
        ]
        for name in ("uid_map", "gid_map")
    )
    for wanted in (FIRST_USER + number, NOBODY):
        if all(any(a <= wanted < a + n for a, _, n in known) for known in (users, groups)):
            return wanted
    if any(inside == 0 and outside != 0 for inside, outside, _ in users):
        return None
    raise Unsupported("root cannot become another user")


def gain_namespaces(library: Library, who: int | None) -> bool:
    """Get permission to make namespaces if the system allows: as root, or in a user namespace.

    Root without that capability becomes another user first, so that its files are not its own.
    """
    if library.can("unshare", NEW_IPC):
        return True
    change_user(who)
    library.call("prctl", SET_DUMPABLE, 1, 0, 0, 0)  # else /proc/self is root's
    user, group = os.geteuid(), os.getegid()
    if not library.can("unshare", NEW_USER):
        return False
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        Path("/proc/self", name).write_text(text)
    return library.can("unshare", NEW_IPC)


def change_user(who: int | None) -> None:
    """Become a user that owns nothing and runs nothing else; raise Unsupported if root cannot."""
    if who is None or os.geteuid() != 0:
        return
    try:
        os.setgroups([])
        os.setresgid(who, who, who)
        os.setresuid(who, who, who)
    except OSError as error:
        raise Unsupported(f"root cannot become another user: {error}") from None
    if not os.access(os.__file__, os.R_OK):
        raise Unsupported(
            f"Python's own files ({Path(os.__file__).parent}) can be read by root alone, and "
            "the system gives no mount namespace"
        )


def empty_root(library: Library) -> bool:
    """Replace the root by a file system with only what is readable; return False if impossible."""
    flags = NEW_MOUNTS | NEW_NET | NEW_IPC | NEW_UTS | NEW_CGROUP
    if not library.can("unshare", flags):
        return False
    if not library.can("mount", b"none", b"/", None, PRIVATE | RECURSIVE, None):
        return False
    library.call("sethostname", b"cage", 4)
    trees: list[tuple[str, int | None, str]] = []
    for path in (*readable(), *DEVICES):
        if path in ("/lib", "/lib64") and Path(path).is_symlink():
            trees.append((path, None, str(Path(path).readlink())))
        else:
            asked = CLONE_TREE | CLOSE_ON_EXEC | AT_RECURSIVE
            trees.append((path, library.system(OPEN_TREE, HERE, path.encode(), asked), ""))
    new = b"/usr"  # any folder will do: what it held is kept open above
    options = b"size=%d,nr_inodes=4096,mode=755" % (4 * WRITTEN)
    library.call("mount", b"tmpfs", new, b"tmpfs", NO_SUID | NO_DEVICES, options)
    os.chdir(new)
    for path, tree, link in trees:
        inside = Path(path[1:])
        inside.parent.mkdir(parents=True, exist_ok=True)
        if tree is None:
            inside.symlink_to(link)
            continue
        if stat.S_ISDIR(os.fstat(tree).st_mode):
            inside.mkdir()
        else:
            inside.touch()
        if path not in DEVICES:
            wanted = struct.pack("=QQQQ", READ_ONLY_MOUNT, 0, 0, 0)
            asked = EMPTY_PATH | AT_RECURSIVE
            library.system(MOUNT_SETATTR, tree, b"", asked, wanted, len(wanted))
        library.system(MOVE_MOUNT, tree, b"", HERE, bytes(inside), 4)
        os.close(tree)
    Path(FOLDER[1:]).mkdir(exist_ok=True)
    Path(FOLDER[1:]).chmod(0o777)
    library.system(PIVOT_ROOT, b".", b".")
    library.call("umount2", b".", DETACH)
    os.chdir(FOLDER)
    return True


def hide_files(library: Library, writable: str | None) -> None:
    """Allow reading some folders and writing to one; with Landlock 4 and 6, no TCP or signals."""
    try:
        version = library.system(LANDLOCK_CREATE, None, 0, LANDLOCK_VERSION)
    except Unsupported:
        raise Unsupported("Landlock is missing (Linux 5.13 or newer has it)") from None
    rights = next(RIGHTS[v] for v in sorted(RIGHTS, reverse=True) if v <= version)
    asked = struct.pack("=QQQ", rights, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    asked = asked[: 24 if version >= 6 else 16 if version >= 4 else 8]
    rules = library.system(LANDLOCK_CREATE, asked, len(asked), 0)
    allowed = [(path, EXECUTE | READ_FILE | READ_DIR) for path in readable()]
    allowed += [(path, READ_FILE | WRITE_FILE) for path in DEVICES]
    allowed += [(writable, IN_FOLDER)] if writable else []
    for path, what in allowed:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        known = rights if Path(path).is_dir() else rights & OF_FILES
        library.system(LANDLOCK_ADD, rules, 1, struct.pack("=Qi", what & known, place), 0)
        os.close(place)
    library.system(LANDLOCK_RESTRICT, rules, 0)
    os.close(rules)


def limit(seconds: float, own_user: bool) -> None:
    """Limit memory, time, files and (for a user of its own) threads."""
    for what, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, WRITTEN),
        (resource.RLIMIT_NOFILE, DESCRIPTORS),
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CPU, int(seconds) + 2),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        *([(resource.RLIMIT_NPROC, THREADS)] if own_user else []),
    ):
        _, hard = resource.getrlimit(what)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def refuse_calls(library: Library) -> None:
    """Refuse every system call except those in `syscalls`."""
    code = syscalls.assembled(syscalls.filter_of(platform.machine()))
    buffer = ctypes.create_string_buffer(code, len(code))
    held = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    library.call("prctl", SET_SECCOMP, FILTER, held, 0, 0)


def lock(library: Library, seconds: float, namespaces: bool, who: int | None, writes: bool) -> None:
    """Give everything up, for good.

    `namespaces` says whether they may be made, `who` which user root becomes, `writes` whether
    there is a folder to write to; without namespaces there is none.

    Raises:
        Unsupported: the system lacks something.
    """
    if platform.machine() not in syscalls.MACHINES:
        raise Unsupported(f"no list of system calls for {platform.machine()}")
    os.chdir("/")
    emptied = namespaces and empty_root(library)
    change_user(who)
    library.call("prctl", SET_PARENT_DEATH, SIGKILL, 0, 0, 0)
    library.call("prctl", SET_DUMPABLE, 0, 0, 0, 0)
    library.call("prctl", SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    none = struct.pack("=6I", 0, 0, 0, 0, 0, 0)
    library.system(CAPSET, struct.pack("=Ii", CAPABILITIES_3, 0), none)
    hide_files(library, FOLDER if emptied and writes else None)
    limit(seconds, who is not None)
    refuse_calls(library)
