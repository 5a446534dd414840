"""`automerge merge`: a recipe file → a model folder, or an adapter's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from automerge.commands.adapter_folder import AsAdapter, in_words, write_adapter_folder
from automerge.commands.mixture import merge_mixture
from automerge.commands.model_folder import write_model
from automerge.config.recipe_file import parse_recipe
from automerge.errors import ConfigError, Fault, PreflightError
from automerge.evidence import EVIDENCE
from automerge.files.yaml_file import load_yaml
from automerge.mergekit import is_moe
from automerge.recipe import BASE
from automerge.text.say import say

if TYPE_CHECKING:
    from rich.console import Console

    from automerge.checkpoints import Checkpoint
    from automerge.errors import Locate
    from automerge.session.preflight import Models


def merge_file(path: Path, out: Path, console: Console, adapter: AsAdapter | None = None) -> None:
    """Merge by a recipe, automerge's or mergekit's, or into a mixture of experts by mergekit-moe's.

    Raises ConfigError or PreflightError.
    """
    from automerge.checkpoints import ModelWatch
    from automerge.checkpoints.stacked import without_layers
    from automerge.commands.announcing import announcing
    from automerge.merging import InvalidMerge
    from automerge.session.preflight import open_models, whole

    document = load_yaml(path)
    if is_moe(document.data):
        if adapter is not None:
            raise ConfigError(f"{path}: a mixture of experts is no adapter; remove --adapter")
        merge_mixture(document, path, out, console)
        return
    file = parse_recipe(document, path)
    references = dict(file.alone())
    for note in file.notes:
        say(console, f"note: {note}")
    base = file.recipe.base or BASE
    if base in file.models:
        references[base] = file.models[base]
    elif adapter is not None:
        raise ConfigError(
            f"{path}: an adapter is added to a base, and none is named; name it as `{BASE}:` under "
            "`models:`"
        )
    reference = base if base in references else file.recipe.models[0]
    view = without_layers if file.recipe.slices else whole
    folder = path.absolute().parent
    evidence = [folder, folder / EVIDENCE]
    models = open_models(
        references,
        reference,
        file.locate,
        file.recipe.vocabulary,
        view,
        align=file.align,
        near=evidence,
        note=announcing(console),
    )
    if reference != base:
        _refuse_adapters(models, file.locate)
    for warning in models.warnings:
        say(console, f"warning: {warning}")
    watch = ModelWatch({name: folder.path for name, folder in models.folders.items()})
    checkpoints = models.checkpoints
    try:
        if adapter is None:
            write_model(
                file.recipe, checkpoints, references, out, watch, console, evidence=evidence
            )
            say(console, f"wrote {out}")
            return
        found = write_adapter_folder(
            file.recipe,
            checkpoints,
            references,
            models.folders[base].pinned,
            out,
            adapter,
            watch,
            console,
            evidence,
        )
    except InvalidMerge as error:
        raise PreflightError(_not_finite(error.tensor, checkpoints)) from error
    say(console, f"wrote {out}: {in_words(found)}")


def _not_finite(tensor: str, checkpoints: Mapping[str, Checkpoint]) -> str:
    """Say which models have a tensor that is not finite, if any has, and what to do."""
    import torch

    guilty = [
        name
        for name, checkpoint in checkpoints.items()
        if tensor in checkpoint.tensors and not torch.isfinite(checkpoint.read(tensor)).all()
    ]
    if guilty:
        return (
            f"{', '.join(guilty)}: tensor {tensor!r} is not finite (NaN or infinite); download the "
            "model again or leave it out"
        )
    return (
        f"the merged tensor {tensor!r} is not finite (NaN or infinite): use smaller weights, or "
        "look for a model that is not finite with `automerge inspect --weights`"
    )


def _refuse_adapters(models: Models, locate: Locate) -> None:
    """Refuse adapters when no base is named."""
    from automerge.checkpoints import is_adapter

    faults = [
        Fault(
            f"{name!r} is an adapter; name its base as `{BASE}:` under `models:`",
            locate(("models", name)),
        )
        for name, folder in models.folders.items()
        if is_adapter(folder.path)
    ]
    if faults:
        raise ConfigError(faults)
