"""What is still to be downloaded, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automerge.merging.memory import gb
from automerge.report.run_sections import duration

if TYPE_CHECKING:
    from automerge.checkpoints.outline import Download

SMALL = 10**8
"""Bytes below which sizes are given in MB."""


def size(n_bytes: int) -> str:
    """Format bytes: 7.3 MB, 14 GB."""
    return gb(n_bytes) if n_bytes >= SMALL else f"{n_bytes / 1e6:.1f} MB"


def in_words(download: Download) -> str:
    """Return a sentence on what is to be downloaded, where to, and for how long."""
    each = ", ".join(f"{name} {size(n)}" for name, n in download.sizes.items())
    total = f" ({size(download.n_bytes)})" if len(download.sizes) > 1 else ""
    return f"{each}{total} to {download.folder}{time_in_words(download)}"


def time_in_words(download: Download) -> str:
    """Return the time it takes as the end of a sentence; nothing if that is not known."""
    if download.seconds is None:
        return ""
    return f": about {duration(download.seconds)} at the pace of one connection"
