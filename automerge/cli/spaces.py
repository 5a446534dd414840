"""Commands about search spaces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from automerge.cli.options import console


def show(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A search space's YAML, or a study's.")
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

    show_space(file, sources, layers, console())


def list_(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A folder of space files.")
    ] = Path("search_spaces"),
) -> None:
    """List the search spaces of a folder, with their dimensions."""
    from automerge.commands.space import list_spaces

    list_spaces(folder, console())
