"""Whether an error says that memory has run out."""

from __future__ import annotations

DEVICE = "OutOfMemoryError"
"""torch's class for devices; it is told by its name, so that torch need not be imported."""
HOST = "DefaultCPUAllocator: "
"""How the message of torch's RuntimeError names what allocates on the host."""
REFUSED = ("can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether device or host memory could not be allocated.

    For the host, torch raises a plain RuntimeError.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == DEVICE:
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and HOST in said and any(r in said for r in REFUSED)
