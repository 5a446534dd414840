"""Commands about search spaces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from automerge.cli.options import console


def show(
    space: Annotated[
        str,
        typer.Argument(
            metavar="NAME_OR_FILE",
            help="A space that `automerge space list` names, a space file, or a study's YAML.",
        ),
    ],
    sources: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            "--sources",
            min=1,
            max=64,
            help="Number of sources a space file is shown for. Default: 3.",
            show_default=False,
        ),
    ] = None,
    layers: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            "--layers",
            min=1,
            max=1000,
            help="Number of layers. Default: the base's, or 24 for a space file.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Show dimensions, conditions, ranges, first trials, an example recipe, a candidate's cost."""
    from automerge.commands.space import show_space

    show_space(space, sources, layers, console())


def list_(
    folder: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(
            metavar="FOLDER",
            help="A folder of your own space files. Default: the spaces that come with automerge.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """List the search spaces there are by name, with their dimensions and what they are for."""
    from automerge.commands.space import list_spaces

    list_spaces(folder, console())
