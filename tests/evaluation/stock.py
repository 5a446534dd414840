"""lm-eval as it is: what our scores are compared with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from automerge.evaluation.lm_eval import templates
from automerge.evaluation.lm_eval.isolation import isolated


@contextlib.contextmanager
def stock(folder: Path) -> Iterator[None]:
    """Let `simple_evaluate` run on a study's tasks as the command `lm_eval` would.

    It does not list this machine's compilers and packages, which takes it seconds each time.
    """
    with (
        isolated(),
        templates.stock(),
        contextlib.chdir(folder.parent),
        patch("lm_eval.evaluator.add_env_info"),
    ):
        yield
