"""The backends that write to the host's memory."""

from automerge.merging.backends.base import Backend
from automerge.merging.backends.compiled import Compiled
from automerge.merging.backends.eager import Eager
from automerge.merging.backends.low_rank import LowRank

HOST: tuple[Backend, ...] = (LowRank(), Compiled(), Eager())
"""In the order in which they are tried; the last one can merge everything."""
