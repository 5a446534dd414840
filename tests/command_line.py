"""The command line in a process of its own, as users run it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
AUTOMERGE = (sys.executable, "-m", "automerge.cli")


def surroundings(**more: str) -> dict[str, str]:
    """The environment of a command: one thread, no network, this repository's automerge."""
    return {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        **more,
    }


def automerge(
    folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder to its end, whatever its exit code."""
    return subprocess.run(
        [*AUTOMERGE, *arguments],
        cwd=folder,
        env=surroundings() if environment is None else environment,
        capture_output=True,
        text=True,
        check=False,
    )
