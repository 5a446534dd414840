"""Arguments and options that several commands take, and where commands print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from rich.console import Console

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A study's folder, such as runs/demo.")]
Text = Optional[str]  # noqa: UP045  typer reads the annotation at run time


def option(help_text: str, *names: str, metavar: str | None = None) -> object:
    """Declare an option whose default is not shown."""
    return typer.Option(*names, help=help_text, metavar=metavar, show_default=False)


Extensions = Annotated[
    Optional[list[str]],  # noqa: UP045
    option(
        "A Python module with your own methods, samplers or scores; may be given more than once.",
        "--extension",
        metavar="MODULE_OR_FILE",
    ),
]


def console() -> Console:
    """Return where a command prints."""
    from automerge.text.terminal import Plain

    return Plain(highlight=False)
