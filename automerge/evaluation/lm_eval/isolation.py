"""Keep what lm-eval does to the process inside: generators, progress bars, log lines."""

from __future__ import annotations

import contextlib
import io
import logging
import random
from collections.abc import Iterator

import numpy as np

from automerge.evaluation.lm_eval.templates import install

PYTHON_SEED, NUMPY_SEED, TORCH_SEED, FEWSHOT_SEED = 0, 1234, 1234, 1234
"""The defaults of lm-eval's command line (`--seed 0,1234,1234,1234`)."""


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Seed the global generators as lm-eval's command line does, and restore them afterwards.

    Inside, lm-eval prints no progress bars, logs errors only, and renders in a sandbox.
    """
    import torch

    install()
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda = range(torch.cuda.device_count()) if started else ()
    python_state, numpy_state = random.getstate(), np.random.get_state()
    logger = logging.getLogger("lm_eval")
    level = logger.level
    with torch.random.fork_rng(devices=list(cuda)), contextlib.redirect_stderr(io.StringIO()):
        random.seed(PYTHON_SEED)
        np.random.seed(NUMPY_SEED)
        torch.manual_seed(TORCH_SEED)
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
            random.setstate(python_state)
            np.random.set_state(numpy_state)
