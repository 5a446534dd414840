"""`automerge inspect`: models → a table, JSON or a page."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from automerge.errors import PreflightError
from automerge.files.atomic import write_atomically
from automerge.text.redaction import redact

if TYPE_CHECKING:
    from rich.console import Console

    from automerge.inspection.weights import Progress


def inspect_models(
    models: Sequence[str], weights: bool, as_json: bool, html: Path | None, console: Console
) -> bool:
    """Show how models, the base first, relate; return whether all can be merged.

    Raises ConfigError, or PreflightError for models that cannot be read.
    """
    from automerge.inspection import InspectionText, examine, html_page, name_models, plain

    named = name_models(models)
    with _progress() as progress:
        found = examine(named, weights, progress)
    if as_json:
        sys.stdout.write(redact(json.dumps(plain(found), indent=2, allow_nan=False)) + "\n")
    else:
        console.print(InspectionText(found))
    if html is not None:
        if not html.absolute().parent.is_dir():
            raise PreflightError(f"{html}: cannot be written: there is no folder {html.parent}")
        write_atomically(html, html_page(found))
    return found.mergeable


@contextmanager
def _progress() -> Iterator[Progress | None]:
    """Show a progress bar over the weights, on a terminal."""
    from rich.progress import Progress as Bar

    from automerge.text.terminal import Plain

    console = Plain(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with Bar(console=console, transient=True) as bar:
        task = bar.add_task("reading weights", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
