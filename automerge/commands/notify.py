"""A command of the user's that is run once a search has ended."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Literal

PATIENCE_S = 60
"""How long the command may take."""


def notify(
    command: str, run: Path, state: Literal["finished", "stopped", "failed"], take: str = ""
) -> str | None:
    """Run a command in a shell, without input and output; return what went wrong, in words.

    It has the environment of this process and AUTOMERGE_RUN (the run folder), AUTOMERGE_STATE and
    AUTOMERGE_TAKE (the name of the model to take; empty if there is none).
    """
    told = {"AUTOMERGE_RUN": str(run.absolute()), "AUTOMERGE_STATE": state, "AUTOMERGE_TAKE": take}
    nothing = subprocess.DEVNULL
    try:
        done = subprocess.run(
            command,
            shell=True,
            env={**os.environ, **told},
            stdin=nothing,
            stdout=nothing,
            stderr=nothing,
            timeout=PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"the command of --notify was stopped after {PATIENCE_S} seconds"
    except (OSError, ValueError) as error:
        return f"the command of --notify could not be run: {error}"
    if done.returncode:
        return f"the command of --notify failed with exit code {done.returncode}"
    return None
