"""Commands in processes forked from one that has imported the libraries they need.

For tests that run several commands in one environment to their ends: each is a process of its own,
like those of `tests.command_line`, without seconds of imports.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from automerge.machine.imports import importing
from tests.command_line import AUTOMERGE, REPOSITORY

LIBRARIES = ("torch", "transformers", "lm_eval.tasks", "lm_eval.models.huggingface", "optuna")


def automerge(
    folder: Path, *arguments: str, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder to its end, whatever its exit code."""
    return python(folder, *AUTOMERGE[1:], *arguments, environment=environment)


def python(
    folder: Path, option: str, *arguments: str, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE …` or `python -c PROGRAM …` in a folder to its end."""
    command = [option, *arguments]
    with TemporaryDirectory() as place:
        out, err = (Path(place, name) for name in ("out", "err"))
        request = {"command": command, "folder": str(folder), "out": str(out), "err": str(err)}
        code = _Parent.of(environment).run(request)
        said = [path.read_text(encoding="utf-8") for path in (out, err)]
    return subprocess.CompletedProcess(command, code, *said)


class _Parent:
    """The process that forks; one at a time, since it is large."""

    _latest: _Parent | None = None

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> _Parent:
        """Return the process with this environment; another one ends."""
        if cls._latest is None:
            atexit.register(cls._end)
        if cls._latest is None or cls._latest._environment != environment:
            cls._end()
            cls._latest = _Parent(environment)
        return cls._latest

    @classmethod
    def _end(cls) -> None:
        if cls._latest is not None:
            cls._latest._process.communicate()
            cls._latest = None

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forked"],
            cwd=REPOSITORY,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, request: Mapping[str, object]) -> int:
        """Run a command to its end, and return its exit code: −N after signal N."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def main() -> None:
    """Fork a child for each line of standard input, write its exit code, and end with the input."""
    with importing():
        for name in LIBRARIES:
            importlib.import_module(name)
        gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        if not (child := os.fork()):
            return _run(**request)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return None


def _run(command: list[str], folder: str, out: str, err: str) -> None:
    """Be what `python COMMAND` would be, but for what has been imported."""
    os.chdir(folder)
    for descriptor, path in enumerate((os.devnull, out, err)):
        opened = os.open(path, os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, descriptor)
        os.close(opened)
    option, what, *arguments = command
    sys.argv = [option, *arguments]
    if option == "-m":
        sys.path[0] = folder
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = ""
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    main()
