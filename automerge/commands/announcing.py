"""Say what is downloaded before it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from automerge.session.downloading import in_words
from automerge.text.say import say

if TYPE_CHECKING:
    from rich.console import Console

    from automerge.checkpoints.outline import Download


def announcing(console: Console) -> Callable[[Download], None]:
    """Return a function that says what is downloaded, where to, and for how long."""
    return lambda download: say(console, f"downloading {in_words(download)}")
