"""Numbers kept in as few bytes as hold them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def narrowed(values: NDArray[Any]) -> NDArray[Any]:
    """Return the same values in the narrowest float type that holds each of them exactly."""
    for kind in (np.float16, np.float32):
        with np.errstate(over="ignore"):
            narrow = values.astype(kind)
        if (narrow == values).all():
            return narrow
    return values
