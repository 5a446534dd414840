"""`automerge merge`: a recipe file → a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from automerge.export import write_model
from automerge.recipe_files import read_recipe

if TYPE_CHECKING:
    from rich.console import Console


def merge_file(path: Path, out: Path, console: Console) -> None:
    """Merge by a recipe of ours or mergekit's; raises ConfigError or PreflightError."""
    from automerge.preflight import open_models

    file = read_recipe(path)
    references = file.alone()
    for note in file.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    reference = file.recipe.models[0]
    models = open_models(references, reference, file.locate)
    for warning in models.warnings:
        console.print(f"warning: {warning}", markup=False, soft_wrap=True)
    write_model(file.recipe, models.checkpoints, references, out, console)
    console.print(f"wrote {out}", markup=False, soft_wrap=True)
