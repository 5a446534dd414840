"""What is run again, asking for less, while memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from automerge.machine.allocation import is_out_of_memory

Found = TypeVar("Found")


def run_with_less(run: Callable[[], Found], ask_less: Callable[[], bool]) -> Found:
    """Run something, and again while memory runs out and less can be asked for.

    Args:
        run: has no effect but its result, or goes on where it failed.
        ask_less: makes the next run ask for less; returns whether that is possible.

    Raises:
        Exception: what `run` raises, if it is something else or nothing less can be asked for.
    """
    while True:
        try:
            return run()
        except Exception as error:
            if not is_out_of_memory(error) or not ask_less():
                raise
        # Only here are the frames gone that hold the tensors.
        torch.cuda.empty_cache()
