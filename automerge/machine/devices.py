"""Names of what models run on, and why other names are refused."""

from __future__ import annotations

import json

DEVICES = ("auto", "cpu", "cuda")

_NO_MPS = (
    "Apple's GPUs (mps) are not supported: sums are in double precision, which they lack, and "
    "nothing has been tried on one; use cpu, which auto takes on a Mac"
)


def device_fault(device: object) -> str | None:
    """Return what is wrong with the name of a device, and what to write; None if nothing is."""
    if device in DEVICES:
        return None
    if device == "mps":
        return _NO_MPS
    shown = json.dumps(device, default=str)
    return f"unknown device {shown}; choose from {', '.join(map(repr, DEVICES))}"
