"""Print lines as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def say(console: Console, text: str, end: str = "\n") -> None:
    """Print text as it is: without markup or colours, and broken only where it says so."""
    console.print(text, end=end, markup=False, highlight=False, soft_wrap=True)
