"""Contain what lm-eval does to the process: random generators, progress bars, log lines."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator

from automerge.evaluation.generators import NUMPY_SEED, PYTHON_SEED, TORCH_SEED, seeded
from automerge.evaluation.lm_eval.templates import install

FEWSHOT_SEED = 1234
"""The default of lm-eval's command line, like the generators' seeds."""

__all__ = ["FEWSHOT_SEED", "NUMPY_SEED", "PYTHON_SEED", "TORCH_SEED", "isolated"]


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Seed the global generators as lm-eval's command line does, and restore them afterwards.

    Inside, lm-eval prints no progress bars, logs only errors, and renders templates in a sandbox.
    """
    install()
    logger = logging.getLogger("lm_eval")
    level = logger.level
    with seeded(), contextlib.redirect_stderr(io.StringIO()):
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
