"""`automerge refine`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from automerge.cli.options import Extensions, console, option

_WHAT, _HOW = "What is refined", "How"


def refine(
    recipe: Annotated[Path, typer.Argument(help="A recipe: automerge's or mergekit's YAML.")],
    text: Annotated[
        list[str],
        typer.Option(
            "--text",
            help="A text file, or a folder of them; NAME=PATH for one source. May be repeated.",
            metavar="[NAME=]PATH",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The recipe to write.", metavar="FILE")],
    loss: Annotated[
        str,
        typer.Option(
            "--loss",
            help="kl: from each source's predictions; entropy; nll: −log p of the text.",
            metavar="NAME",
            rich_help_panel=_WHAT,
        ),
    ] = "kl",
    detail: Annotated[
        str,
        typer.Option(
            "--detail",
            help="Vary numbers more finely: none, depth, components, per_layer or per_tensor.",
            metavar="NAME",
            rich_help_panel=_WHAT,
        ),
    ] = "none",
    steps: Annotated[
        int, typer.Option("--steps", help="Gradient steps.", min=1, rich_help_panel=_HOW)
    ] = 40,
    tokens: Annotated[
        int, typer.Option("--tokens", help="Tokens per step.", min=2, rich_help_panel=_HOW)
    ] = 4096,
    length: Annotated[
        int, typer.Option("--length", help="Tokens per sequence.", min=2, rich_help_panel=_HOW)
    ] = 512,
    rate: Annotated[
        float,
        typer.Option(
            "--rate",
            help="The first step of a number, as a share of its usual range.",
            rich_help_panel=_HOW,
        ),
    ] = 0.03,
    seed: Annotated[
        int, typer.Option("--seed", help="Of the order of the text.", min=0, rich_help_panel=_HOW)
    ] = 0,
    device: Annotated[
        str,
        typer.Option("--device", help="auto, cpu or cuda.", metavar="DEVICE", rich_help_panel=_HOW),
    ] = "auto",
    export: Annotated[
        Optional[Path],  # noqa: UP045
        option("Also write the merged model to this folder.", "--export", metavar="DIR"),
    ] = None,
    extension: Extensions = None,
) -> int:
    """Improve a recipe's weights by gradient steps on plain text, without any task."""
    from automerge.commands.refine import refine_file
    from automerge.extensions import load_extensions
    from automerge.session.refining import RefineSettings

    load_extensions(extension or (), Path.cwd())
    settings = RefineSettings(loss, detail, steps, tokens, length, rate, seed, device)
    return refine_file(recipe, text, out, settings, export, console())
