"""The system calls that a program may make: a list of what is allowed, as a seccomp filter."""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""Machine → its number in seccomp."""

ALLOWED = {
    # files and pipes; which files is for Landlock and the mount namespace to say
    "read": (0, 63),
    "write": (1, 64),
    "open": (2, None),
    "close": (3, 57),
    "stat": (4, None),
    "fstat": (5, 80),
    "lstat": (6, None),
    "poll": (7, None),
    "lseek": (8, 62),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "readv": (19, 65),
    "writev": (20, 66),
    "access": (21, None),
    "pipe": (22, None),
    "select": (23, None),
    "dup": (32, 23),
    "dup2": (33, None),
    "ftruncate": (77, 46),
    "getcwd": (79, 17),
    "rename": (82, None),
    "mkdir": (83, None),
    "rmdir": (84, None),
    "unlink": (87, None),
    "readlink": (89, None),
    "getdents64": (217, 61),
    "epoll_wait": (232, None),
    "epoll_ctl": (233, 21),
    "openat": (257, 56),
    "mkdirat": (258, 34),
    "newfstatat": (262, 79),
    "unlinkat": (263, 35),
    "readlinkat": (267, 78),
    "faccessat": (269, 48),
    "pselect6": (270, 72),
    "ppoll": (271, 73),
    "epoll_pwait": (281, 22),
    "epoll_create1": (291, 20),
    "dup3": (292, 24),
    "pipe2": (293, 59),
    "renameat2": (316, 276),
    "statx": (332, 291),
    "faccessat2": (439, 439),
    # memory
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "mremap": (25, 216),
    "madvise": (28, 233),
    # its own threads and the signals it gets
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_yield": (24, 124),
    "alarm": (37, None),
    "setitimer": (38, 103),
    "exit": (60, 93),
    "sigaltstack": (131, 132),
    "futex": (202, 98),
    "restart_syscall": (219, 128),
    "exit_group": (231, 94),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    # the time, chance, and who it is itself
    "nanosleep": (35, 101),
    "getpid": (39, 172),
    "uname": (63, 160),
    "gettimeofday": (96, 169),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "times": (100, 153),
    "getuid": (102, 174),
    "getgid": (104, 176),
    "geteuid": (107, 175),
    "getegid": (108, 177),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "time": (201, None),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "getrandom": (318, 278),
}
"""Name → its number on x86-64 and on AArch64, of the calls that may have any arguments."""


@dataclass(frozen=True)
class Where:
    """What an argument's low 32 bits must be for a call to be allowed.

    With `whole`, the high 32 bits must be 0 as well: for pointers.
    """

    argument: int
    values: tuple[int, ...]
    whole: bool = False


THREAD = 0x3D0F00
"""The flags of `clone` by which the C library starts a thread."""
LIMITED: dict[str, tuple[tuple[int, int], tuple[Where, ...]]] = {
    "ioctl": (
        (16, 29),
        # TCGETS (is it a terminal?), FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
        (Where(1, (0x5401, 0x541B, 0x5421, 0x5450, 0x5451)),),
    ),
    "fcntl": (
        (72, 25),
        # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC: no owner, signal or lease
        (Where(1, (0, 1, 2, 3, 4, 1030)),),
    ),
    "sendto": ((44, 206), (Where(4, (0,), whole=True),)),  # to its own other end alone
    "recvfrom": ((45, 207), ()),
    "socketpair": ((53, 199), (Where(0, (1,)),)),  # AF_UNIX
    "clone": ((56, 220), (Where(0, (THREAD,)),)),
    "sched_getaffinity": ((204, 123), (Where(0, (0,)),)),  # its own
    "prlimit64": ((302, 261), (Where(0, (0,)), Where(2, (0,), whole=True))),  # reads its own
    "prctl": ((157, 167), (Where(0, (15,)),)),  # PR_SET_NAME, of a thread
}
"""Name → its numbers and what its arguments must be."""
CLONE3 = 435
"""Refused as unknown: the C library then uses `clone`, whose flags a filter can read."""

LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
GRANT, REFUSE, UNKNOWN, KILL = (
    0x7FFF0000,
    0x00050000 | errno.EPERM,
    0x00050000 | errno.ENOSYS,
    1 << 31,
)
Instruction = tuple[int, int, int, int]


def rules(machine: str) -> dict[int, tuple[Where, ...]]:
    """Return the numbers of the calls that are allowed, with what their arguments must be."""
    column = tuple(MACHINES).index(machine)
    limited = {numbers[column]: where for numbers, where in LIMITED.values()}
    free = (numbers[column] for numbers in ALLOWED.values())
    return limited | {number: () for number in free if number is not None}


def filter_of(machine: str) -> list[Instruction]:
    """Return the filter, as BPF instructions: whatever does not have a rule is refused.

    Numbers of another architecture end the process.
    """
    found = [
        (LOAD, 0, 0, 4),
        (EQUAL, 1, 0, MACHINES[machine]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, 0),
    ]
    found += [(EQUAL, 0, 1, CLONE3), (RETURN, 0, 0, UNKNOWN)]
    for number, where in sorted(rules(machine).items()):
        body = [line for condition in where for line in _check(condition)]
        body.append((RETURN, 0, 0, GRANT))
        found += [(EQUAL, 0, len(body), number), *body]
    return [*found, (RETURN, 0, 0, REFUSE)]


def _check(where: Where) -> list[Instruction]:
    """Refuse the call unless the argument is one of the values; both machines are little-endian."""
    low = 16 + 8 * where.argument
    found: list[Instruction] = []
    if where.whole:
        found += [(LOAD, 0, 0, low + 4), (EQUAL, 1, 0, 0), (RETURN, 0, 0, REFUSE)]
    found.append((LOAD, 0, 0, low))
    for left, value in zip(range(len(where.values), 0, -1), where.values, strict=True):
        found.append((EQUAL, left, 0, value))
    return [*found, (RETURN, 0, 0, REFUSE)]


def assembled(program: list[Instruction]) -> bytes:
    """Return the instructions as the kernel reads them."""
    return b"".join(struct.pack("=HBBI", *line) for line in program)
