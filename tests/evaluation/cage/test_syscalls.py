"""The list of system calls: what the filter does for every number, on both machines and here."""

from __future__ import annotations

import errno
import platform
import struct
from functools import cache

import pytest

from automerge.evaluation.lm_eval.cage import syscalls
from automerge.evaluation.lm_eval.cage.launch import passes

# Numbers from Linux's own tables, compared with libseccomp's.
FREE = {
    "x86_64": {
        *range(16),
        *range(17, 26),
        *(
            28,
            32,
            33,
            35,
            37,
            38,
            39,
            60,
            63,
            77,
            79,
            82,
            83,
            84,
            87,
            89,
            96,
            98,
            99,
            100,
            102,
            104,
        ),
        *(107, 108, 110, 131, 186, 201, 202, 217, 219, 228, 229, 230, 231, 232, 233, 257, 258, 262),
        *(263, 267, 269, 270, 271, 273, 281, 291, 292, 293, 316, 318, 332, 334, 439),
    },
    "aarch64": {
        *(
            17,
            20,
            21,
            22,
            23,
            24,
            34,
            35,
            46,
            48,
            56,
            57,
            59,
            61,
            62,
            63,
            64,
            65,
            66,
            67,
            68,
            72,
            73,
        ),
        *(
            78,
            79,
            80,
            93,
            94,
            98,
            99,
            101,
            103,
            113,
            114,
            115,
            124,
            128,
            132,
            134,
            135,
            139,
            153,
            160,
        ),
        *(165, 169, 172, 173, 174, 175, 176, 177, 178, 179, 214, 215, 216, 222, 226, 233, 276, 278),
        *(291, 293, 439),
    },
}
# name: number on x86-64, on AArch64, then arguments that are allowed and that are not.
THREAD = 0x3D0F00
LIMITED = {
    "ioctl": (16, 29, [(1, 0x5401), (1, 0x541B)], [(1, 0x5412), (1, 0x541C), (1, 0)]),
    "fcntl": (
        *(72, 25, [(1, 0), (1, 2), (1, 4), (1, 1030)]),
        [(1, 5), (1, 8), (1, 10), (1, 15), (1, 1024), (1, 1026), (1, 1031), (1, 1033)],
    ),
    "sendto": (44, 206, [(4, 0)], [(4, 1), (4, 0x7F0000000000), (4, 1 << 32)]),
    "recvfrom": (45, 207, [(4, 0), (4, 1)], []),
    "socketpair": (53, 199, [(0, 1)], [(0, 0), (0, 2), (0, 10), (0, 16), (0, 17)]),
    "clone": (
        *(56, 220, [(0, THREAD)]),
        [(0, 17), (0, 0x4111), (0, 0x10000), (0, THREAD | 1 << 28), (0, THREAD | 1 << 29), (0, 0)],
    ),
    "prctl": (157, 167, [(0, 15)], [(0, 1), (0, 4), (0, 22), (0, 36), (0, 38), (0, 0)]),
    "sched_getaffinity": (204, 123, [(0, 0)], [(0, 1), (0, 4000)]),
    "prlimit64": (302, 261, [(0, 0)], [(0, 1), (0, 77), (2, 1), (2, 0x7F0000000000), (2, 1 << 32)]),
}
CLONE3 = 435


@cache
def instructions(machine: str) -> list[tuple[int, ...]]:
    """The filter as the kernel reads it."""
    code = syscalls.assembled(syscalls.filter_of(machine))
    return [struct.unpack_from("<HBBI", code, 8 * n) for n in range(len(code) // 8)]


def decided(machine: str, number: int, *arguments: tuple[int, int], arch: int | None = None) -> int:
    """What the filter returns for a call: a plain reading of BPF, apart from what wrote it."""
    values = dict(arguments)
    data = struct.pack(
        "<IIQ6Q",
        number,
        syscalls.MACHINES[machine] if arch is None else arch,
        0,
        *(values.get(place, 0) for place in range(6)),
    )
    program = instructions(machine)
    held, at = 0, 0
    for _ in range(len(program)):
        what, yes, no, k = program[at]
        at += 1
        if what == 0x20:
            (held,) = struct.unpack_from("<I", data, k)
        elif what == 0x15:
            at += yes if held == k else no
        elif what == 0x06:
            return k
        else:
            raise AssertionError(f"an instruction of another kind: {what:#x}")
    raise AssertionError("the filter has no end")


GRANTED, REFUSED = 0x7FFF0000, 0x00050000 | errno.EPERM


@pytest.mark.parametrize("machine", FREE)
def test_every_number_has_its_decision(machine):
    column = list(FREE).index(machine)
    limited = {row[column] for row in LIMITED.values()}
    granted = {number for number in range(1024) if decided(machine, number) == GRANTED}
    calls = FREE[machine]
    assert granted - limited == calls
    for number in set(range(1024)) - calls - limited - {CLONE3}:
        assert decided(machine, number) == REFUSED
        assert decided(machine, number, *((place, 1) for place in range(6))) == REFUSED
    for number in calls:
        assert decided(machine, number, *((place, 2**64 - 1) for place in range(6))) == GRANTED
    assert decided(machine, CLONE3) == 0x00050000 | errno.ENOSYS


@pytest.mark.parametrize("machine", FREE)
@pytest.mark.parametrize("name", LIMITED)
def test_arguments_are_limited(machine, name):
    *numbers, allowed, refused = LIMITED[name]
    number = numbers[list(FREE).index(machine)]
    for argument in allowed:
        assert decided(machine, number, argument) == GRANTED
    for argument in refused:
        assert decided(machine, number, argument) == REFUSED, argument
    ((which, _), *_) = refused or [(None, None)]
    if which is not None and name not in ("sendto", "prlimit64"):
        values = {
            value for value in range(0x6000) if decided(machine, number, (which, value)) == GRANTED
        }
        exact = {"ioctl": {0x5401, 0x541B, 0x5421, 0x5450, 0x5451}, "fcntl": {0, 1, 2, 3, 4, 1030}}
        assert values == exact.get(name, {value for _, value in allowed if value < 0x6000})


@pytest.mark.parametrize("machine", FREE)
def test_numbers_of_another_machine_end_the_process(machine):
    killed = 0x80000000
    for arch in (0x40000003, 0x40000028, 0, *syscalls.MACHINES.values()):  # i386, ARM
        if arch != syscalls.MACHINES[machine]:
            assert decided(machine, 0, arch=arch) == killed
    for number in (0, 1, 59, 41):
        assert decided(machine, 0x40000000 | number) == REFUSED, "those of x32"


def test_the_kernel_refuses_whatever_is_not_on_the_list():
    """Each is called with arguments that would do nothing where it were allowed."""
    free = FREE[platform.machine()]
    limited = {row[list(FREE).index(platform.machine())] for row in LIMITED.values()}
    traps = (
        {335, 336} if platform.machine() == "x86_64" else set()
    )  # of uprobes: no filter sees them
    numbers = sorted(set(range(480)) - free - limited - traps)
    program = f"""
import ctypes
def f():
    libc = ctypes.CDLL(None, use_errno=True)
    allowed = []
    for number in {numbers}:
        ctypes.set_errno(0)
        found = libc.syscall(number, *[ctypes.c_long(-1)] * 6)
        wanted = {errno.ENOSYS} if number == {CLONE3} else {errno.EPERM}
        if found != -1 or ctypes.get_errno() != wanted:
            allowed.append((number, found, ctypes.get_errno()))
    return allowed
"""
    assert passes(program, "assert f() == []", 20.0)
