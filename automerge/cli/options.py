"""Arguments and options that several commands take, and where commands print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from automerge.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from automerge.commands.adapter_folder import AsAdapter

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A study's folder, such as runs/demo.")]
Text = Optional[str]  # noqa: UP045  typer reads the annotation at run time


def option(
    help_text: str,
    *names: str,
    metavar: str | None = None,
    panel: str | None = None,
    default: str | bool = False,
) -> object:
    """Declare an option whose default is not shown.

    `default` is what None amounts to, which the help says; or true, if the default is to be shown.
    """
    said = f"{help_text} Default: {default}." if isinstance(default, str) else help_text
    return typer.Option(
        *names, help=said, metavar=metavar, show_default=default is True, rich_help_panel=panel
    )


def switch(help_text: str, *names: str, panel: str | None = None) -> object:
    """Declare an option that takes no value and is off by default."""
    return option(help_text, *names, metavar="", panel=panel)


Extensions = Annotated[
    Optional[list[str]],  # noqa: UP045
    option(
        "A Python module with your own methods, samplers or scores; may be given more than once.",
        "--extension",
        metavar="MODULE_OR_FILE",
    ),
]
Models = Annotated[
    Optional[list[str]],  # noqa: UP045
    option(
        "Where a model of the study is now; may be given more than once.",
        "--model",
        metavar="NAME=FOLDER",
    ),
]


Adapter = Annotated[
    bool,
    switch("Write a LoRA adapter of the base instead of a whole model.", "--adapter"),
]
Rank = Annotated[
    Optional[int],  # noqa: UP045
    option(
        "The highest rank of an adapter's modules, as near to the merge as it allows. Default: "
        "exact, or refused.",
        "--rank",
        metavar="N",
    ),
]
Json = Annotated[bool, switch("Print JSON.", "--json")]


def base_option(panel: str | None = None) -> object:
    """Declare a study's base."""
    help_text = "The base: a folder, or a hub id with or without @REVISION."
    return option(help_text, "--base", metavar="MODEL", panel=panel)


def model_option(panel: str | None = None) -> object:
    """Declare a study's sources."""
    help_text = "A fine-tune or LoRA adapter of the base; may be given more than once."
    return option(help_text, "--model", metavar="[NAME=]MODEL", panel=panel)


def include_path_option(panel: str | None = None) -> object:
    """Declare the folder of a study's own tasks."""
    help_text = "A folder with your own lm-eval tasks."
    return option(help_text, "--include-path", metavar="DIR", panel=panel)


def model_folders(texts: Sequence[str] | None) -> dict[str, Path]:
    """Read NAME=FOLDER texts; relative folders are relative to the working directory."""
    found = {}
    for text in texts or ():
        name, equals, folder = text.partition("=")
        if not equals or not name or not Path(folder).is_dir():
            raise ConfigError(f"--model {text}: expected NAME=FOLDER, with a folder that exists")
        found[name] = Path(folder)
    return found


def as_adapter(adapter: bool, rank: int | None) -> AsAdapter | None:
    """Return how an adapter is to be written; None for a whole model."""
    from automerge.commands.adapter_folder import AsAdapter

    if rank is not None and not adapter:
        raise ConfigError("--rank is that of an adapter's modules: add --adapter")
    if rank is not None and rank < 1:
        raise ConfigError(f"--rank: expected a whole number from 1, got {rank}")
    return AsAdapter(rank) if adapter else None


def console() -> Console:
    """Return where a command prints."""
    from automerge.text.terminal import Plain

    return Plain(highlight=False)
