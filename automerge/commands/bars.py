"""Progress bars on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID


@contextmanager
def progress_bars(console: Console | None) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function of (label, done, total) that shows a bar per label, on a terminal only."""
    if console is None or not console.is_terminal:
        yield lambda label, done, total: None
        return
    from rich.progress import Progress

    with Progress(console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(label: str, done: int, total: int) -> None:
            if label not in tasks:
                tasks[label] = bars.add_task(label, total=total)
            bars.update(tasks[label], completed=done, total=total)

        yield show
