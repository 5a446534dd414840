"""Compile C++ on the user's machine, keep it between runs, and load it."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from automerge.merging.backends.kept import digest, find, keep, kept

OPTIONS = (
    *("-std=c++17", "-O3", "-shared", "-fPIC"),
    # The bits of PyTorch's own operations: none contracted. Comparisons must not trap, so that
    # they become vector instructions.
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
)
WIDE = "-mprefer-vector-width=512"
DECISIVE = ("vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU part", "Features")
"""Lines of /proc/cpuinfo that are the same for all processors of a kind."""
TIMEOUT_S = 120.0


class CannotCompile(Exception):
    """There is no compiler, or it rejects the code."""


def compiler() -> str | None:
    """Find the C++ compiler: $CXX, or one of the usual names; return None if there is none."""
    names = (os.environ.get("CXX", ""), "g++", "c++", "clang++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def library(source: str, compiler: str) -> ctypes.CDLL:
    """Compile for this machine's processor, unless that was done before, and load.

    Raises:
        CannotCompile: with the compiler's message.
    """
    options = native_options(compiler)
    known = "\0".join([source, *options, target(compiler, options), *processor()])
    key = digest(known.encode())
    try:
        folder = kept()
        path = find(folder, key) or compiled(folder, key, source, compiler, options)
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise CannotCompile(f"cannot keep or load compiled code: {error}") from error


def compiled(folder: Path, key: str, source: str, compiler: str, options: tuple[str, ...]) -> Path:
    """Compile next to where it is kept and rename, so that nobody loads half a file."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / "kernel.so"
        run(compiler, *options, "-x", "c++", "-", "-o", str(made), text=source)
        return keep(folder, key, made)


def native_options(compiler: str) -> tuple[str, ...]:
    """Return the options for this processor."""
    wide = (WIDE,) if platform.machine().lower() in ("x86_64", "amd64") else ()
    return (*OPTIONS, "-march=native", *wide)


@cache
def target(compiler: str, options: tuple[str, ...]) -> str:
    """Describe the compiler and the processor as it sees it: version, and all macros it defines."""
    version = run(compiler, "--version", text="")
    return version + run(compiler, *options, "-x", "c++", "-dM", "-E", "-", text="")


@cache
def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """Describe the processor and its instructions as the system sees them, and the C library.

    Machines may share home folders: code made for one must not be offered to another that lacks an
    instruction or would round differently, whatever a compiler takes a processor for that is too
    new for it.
    """
    try:
        lines = cpuinfo.read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    first = lines[: lines.index("")] if "" in lines else lines
    said = dict(line.split(":", 1) for line in first if ":" in line)
    known = {name.strip(): value.split() for name, value in said.items()}
    decisive = (" ".join(sorted(known.get(name, ()))) for name in DECISIVE)
    return (platform.machine(), platform.processor(), *platform.libc_ver(), *decisive)


def run(*command: str, text: str) -> str:
    """Return what a compiler prints, given code on standard input."""
    try:
        ended = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotCompile(f"{command[0]}: {error}") from error
    if ended.returncode != 0:
        raise CannotCompile(f"{command[0]}: {ended.stderr.strip()}")
    return ended.stdout
