"""A process that runs one program and can do no harm: `python -I cage.py`, a script of its own.

Reads JSON from its standard input: the program, its seconds, a folder it may write to and a token
that is written to standard output when the program ends well. Before the program runs, the process
loses everything but its interpreter, its libraries and that folder (Landlock), the network, other
processes and the means to start any (seccomp), and memory, time and files without end. It imports
the standard library alone, and exits with 3 where the system cannot do this.
"""

import ctypes
import errno
import json
import os
import platform
import resource
import signal
import struct
import sys
from pathlib import Path
from typing import Any

UNSUPPORTED = 3
MEMORY, FILES, WRITTEN = 4 * 2**30, 64, 2**24

PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 4, 22, 38, 2
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT, LANDLOCK_VERSION = 444, 445, 446, 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""All rights on files that a version of Landlock knows, from that version on."""
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | 1 << 14 | 1 << 15
"""Those that a rule about a file, not a folder, may hold."""

ARCHITECTURES = {
    "x86_64": (
        0xC000003E,
        56,
        # socket, fork, vfork, execve, kill, ptrace, mount, umount2, tkill, add_key, request_key,
        # keyctl, unshare, perf_event_open, setns, process_vm_readv and writev, bpf, execveat,
        # userfaultfd, io_uring_setup, pidfd_open
        (
            *(41, 57, 58, 59, 62, 101, 165, 166, 200, 248, 249, 250, 272, 298, 308, 310, 311),
            *(321, 322, 323, 425, 434),
        ),
    ),
    "aarch64": (
        0xC00000B7,
        220,
        # umount2, mount, unshare, ptrace, kill, tkill, socket, add_key, request_key, keyctl,
        # execve, perf_event_open, setns, process_vm_readv and writev, bpf, execveat,
        # userfaultfd, io_uring_setup, pidfd_open
        (
            *(39, 40, 97, 117, 129, 130, 198, 217, 218, 219, 221, 241, 268, 270, 271, 280, 281),
            *(282, 425, 434),
        ),
    ),
}
"""Machine → its number in seccomp, that of clone, and those of the calls that are refused."""
CLONE3, CLONE_THREAD, X32 = 435, 0x10000, 0x40000000


class Unsupported(Exception):
    """The system lacks what it takes."""


def call(function: Any, *arguments: object) -> int:
    """A function of the C library; Unsupported where it fails."""
    found: int = function(*arguments)
    if found < 0:
        raise Unsupported(f"{function.__name__}: {os.strerror(ctypes.get_errno())}")
    return found


def hide_files(libc: ctypes.CDLL, readable: list[str], writable: str) -> None:
    """Leave some folders to read and one to write to; with Landlock 4 and 6 no TCP nor signals."""
    version = libc.syscall(LANDLOCK_CREATE, None, 0, LANDLOCK_VERSION)
    if version < 1:
        raise Unsupported("Landlock is missing (Linux 5.13 or newer has it)")
    rights = next(RIGHTS[v] for v in sorted(RIGHTS, reverse=True) if v <= version)
    asked = struct.pack("=QQQ", rights, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    asked = asked[: 24 if version >= 6 else 16 if version >= 4 else 8]
    ruleset = call(libc.syscall, LANDLOCK_CREATE, asked, len(asked), 0)
    for path, allowed in [
        *((path, EXECUTE | READ_FILE | READ_DIR) for path in readable),
        *((path, READ_FILE | WRITE_FILE) for path in ("/dev/null", "/dev/zero", "/dev/urandom")),
        (writable, rights),
    ]:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        known = rights if Path(path).is_dir() else rights & OF_FILES
        rule = struct.pack("=Qi", allowed & known, place)
        call(libc.syscall, LANDLOCK_ADD, ruleset, 1, rule, 0)
        os.close(place)
    call(libc.syscall, LANDLOCK_RESTRICT, ruleset, 0)
    os.close(ruleset)


def refuse_calls(libc: ctypes.CDLL) -> None:
    """Refuse the system calls of ARCHITECTURES, and clone but for threads."""
    if platform.machine() not in ARCHITECTURES:
        raise Unsupported(f"no list of system calls for {platform.machine()}")
    machine, clone, refused = ARCHITECTURES[platform.machine()]
    load, equal, above, bits, end = 0x20, 0x15, 0x35, 0x45, 0x06
    no, allowed, killed = 0x00050000 | errno.EPERM, 0x7FFF0000, 0x80000000
    program = [(load, 0, 0, 4), (equal, 1, 0, machine), (end, 0, 0, killed), (load, 0, 0, 0)]
    program += [(above, 0, 1, X32), (end, 0, 0, no)]
    program += [(equal, 0, 1, CLONE3), (end, 0, 0, 0x00050000 | errno.ENOSYS)]
    for number in refused:
        program += [(equal, 0, 1, number), (end, 0, 0, no)]
    program += [(equal, 0, 3, clone), (load, 0, 0, 16), (bits, 1, 0, CLONE_THREAD)]
    program += [(end, 0, 0, no), (end, 0, 0, allowed)]
    code = b"".join(struct.pack("=HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    held = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    call(libc.prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, held, 0, 0)


def lock(folder: str, seconds: float) -> None:
    """Give everything up."""
    libc = ctypes.CDLL(None, use_errno=True)
    os.chdir(folder)
    for what, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, WRITTEN),
        (resource.RLIMIT_NOFILE, FILES),
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CPU, int(seconds) + 2),
    ):
        resource.setrlimit(what, (most, most))
    call(libc.prctl, PR_SET_DUMPABLE, 0, 0, 0, 0)
    call(libc.prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    own = [os.path.realpath(path) for path in {sys.prefix, sys.base_prefix, sys.exec_prefix}]
    hide_files(libc, [*own, "/usr", "/lib", "/lib64", "/etc/ld.so.cache"], folder)
    refuse_calls(libc)


def main() -> None:
    """Run the program, under the names that code has in `exec`."""
    asked = json.load(sys.stdin)
    program, token, seconds = asked["program"], asked["token"], asked["seconds"]
    answer = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    try:
        lock(asked["folder"], seconds)
    except (Unsupported, AttributeError, OSError, ValueError) as error:
        os.write(answer, str(error).encode())
        os._exit(UNSUPPORTED)
    del asked
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        exec(program, {})
    except BaseException:
        os._exit(1)
    os.write(answer, token.encode())
    os._exit(0)


if __name__ == "__main__":
    main()
