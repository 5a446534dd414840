"""C++ compiled on the user's machine, kept between runs, and loaded."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

OPTIONS = (
    *("-std=c++17", "-O3", "-shared", "-fPIC"),
    # The bits of PyTorch's own operations: none contracted. Comparisons may not trap, so that
    # they become vector instructions.
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
)
WIDE = "-mprefer-vector-width=512"
TIMEOUT_S = 120.0


class CannotCompile(Exception):
    """There is no compiler, or it refuses the code."""


def compiler() -> str | None:
    """The C++ compiler: that of $CXX, or one of the usual names; None where there is none."""
    names = (os.environ.get("CXX", ""), "g++", "c++", "clang++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def library(source: str, compiler: str) -> ctypes.CDLL:
    """Compile for this machine's processor, unless that was done before, and load.

    Raises CannotCompile with what the compiler said.
    """
    options = native_options(compiler)
    key = "\0".join([source, *options, target(compiler, options)])
    path = kept() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.so"
    if not path.exists():
        compile_to(path, source, compiler, options)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise CannotCompile(f"cannot load {path}: {error}") from error


def compile_to(path: Path, source: str, compiler: str, options: tuple[str, ...]) -> None:
    """Compile beside `path` and rename, so that nobody loads half a file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            made = Path(scratch) / "kernel.so"
            run(compiler, *options, "-x", "c++", "-", "-o", str(made), text=source)
            made.replace(path)
    except OSError as error:
        raise CannotCompile(f"cannot write {path}: {error.strerror}") from error


def native_options(compiler: str) -> tuple[str, ...]:
    """The options for this processor."""
    wide = (WIDE,) if platform.machine().lower() in ("x86_64", "amd64") else ()
    return (*OPTIONS, "-march=native", *wide)


@cache
def target(compiler: str, options: tuple[str, ...]) -> str:
    """Compiler and processor, as the macros that are defined for them: homes are shared by
    machines."""
    return run(compiler, *options, "-x", "c++", "-dM", "-E", "-", text="")


def run(*command: str, text: str) -> str:
    """What a compiler prints, given code on standard input."""
    try:
        ended = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotCompile(f"{command[0]}: {error}") from error
    if ended.returncode != 0:
        raise CannotCompile(f"{command[0]}: {ended.stderr.strip()}")
    return ended.stdout


def kept() -> Path:
    """Where compiled kernels are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "automerge" / "kernels"
