"""`automerge init` and `automerge schema`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from automerge.cli.options import (
    Text,
    base_option,
    console,
    include_path_option,
    model_option,
    option,
    switch,
)


def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The YAML to write.")] = Path(
        "automerge.yaml"
    ),
    base: Annotated[Text, base_option()] = None,
    model: Annotated[
        Optional[list[str]],  # noqa: UP045
        model_option(),
    ] = None,
    task: Annotated[
        Optional[list[str]],  # noqa: UP045
        option(
            "An lm-eval task to optimise for, as TASK or TASK:METRIC; may be given more than once.",
            "--task",
            metavar="TASK",
        ),
    ] = None,
    include_path: Annotated[Text, include_path_option()] = None,
    budget: Annotated[
        Text, option("Number of recipes to measure.", "--budget", metavar="N", default="200")
    ] = None,
    source: Annotated[
        Optional[Path],  # noqa: UP045
        option(
            "Begin with a mergekit-evolve file, or with a recipe and its models.",
            "--from",
            metavar="FILE",
        ),
    ] = None,
    force: Annotated[bool, switch("Replace a file that is there.", "--force")] = False,
) -> None:
    """Write a study's YAML with comments; on a terminal, ask for what is not given."""
    from automerge.commands.init import write_configuration
    from automerge.text.terminal import somebody_is_there

    options = {
        "base": base,
        "model": model,
        "task": task,
        "include_path": include_path,
        "budget": budget,
    }
    write_configuration(file, options, source, force, somebody_is_there(), console())


def schema(
    path: Annotated[bool, switch("Print where it lies instead.", "--path")] = False,
) -> None:
    """Print the JSON Schema of a study's YAML, for editors and validators."""
    from automerge.config.schema import SHIPPED

    sys.stdout.write(f"{SHIPPED}\n" if path else SHIPPED.read_text(encoding="utf-8"))
