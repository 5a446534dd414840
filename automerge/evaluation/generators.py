"""The process's random generators: seeded for an evaluation, and restored afterwards."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np

PYTHON_SEED, NUMPY_SEED, TORCH_SEED = 0, 1234, 1234
"""The defaults of lm-eval's command line (`--seed 0,1234,1234,1234`)."""


@contextlib.contextmanager
def seeded() -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch, and restore them afterwards."""
    import torch

    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda = range(torch.cuda.device_count()) if started else ()
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=list(cuda)):
        random.seed(PYTHON_SEED)
        np.random.seed(NUMPY_SEED)
        torch.manual_seed(TORCH_SEED)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
