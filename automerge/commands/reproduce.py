"""`automerge reproduce`: a published merge, made again from the models it was made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from automerge.commands.model_folder import write_scored
from automerge.errors import ConfigError, PreflightError, WeightsDiffer
from automerge.evidence import EVIDENCE
from automerge.files.known import remember
from automerge.methods import METHODS, check_recipe
from automerge.recipe import BASE
from automerge.session.resume import locate_models
from automerge.store.published import read_published
from automerge.store.record import aligned_by
from automerge.text.say import say

if TYPE_CHECKING:
    from rich.console import Console


def reproduce(path: Path, out: Path, given: Mapping[str, Path], console: Console) -> None:
    """Make a published merge again, and compare its weights with those that were scored.

    Args:
        path: its `reproduce.json`; evidence that the recipe needs lies beside it.
        out: the folder to write.
        given: where models are that the file names by digest, if this machine does not know.

    Raises:
        ConfigError: the file is not one, or its recipe's method is not there.
        PreflightError: a model cannot be had, or holds something else.
        WeightsDiffer: the weights differ although this machine rounds as the one that scored them.
    """
    from automerge.checkpoints import ModelWatch, open_together

    published = read_published(path)
    if faults := check_recipe(published.recipe, METHODS):
        raise ConfigError(f"{path}: {faults[0]}")
    folders = locate_models(path.absolute().parent, published.models, given)
    watch = ModelWatch.hashing(folders)
    for model in published.models:
        if watch.digests[model.name] != model.digest:
            raise PreflightError(
                f"the model {model.name!r} in {folders[model.name]} is not the one that "
                f"{published.name} was made of (digest {model.digest[:12]}); name another folder "
                f"with --model {model.name}=FOLDER"
            )
        remember(folders[model.name], model.digest)
    evidence = [path.absolute().parent, path.absolute().parent / EVIDENCE]
    checkpoints = open_together(folders, BASE, aligned_by(published.models), evidence)
    references = {model.name: model.reference for model in published.models}
    try:
        alike = write_scored(
            published.recipe,
            checkpoints,
            references,
            out,
            watch,
            console,
            published.weights,
            published.arithmetic,
            evidence,
        )
    except WeightsDiffer as error:
        raise WeightsDiffer(
            f"{published.name}: {error}, although this machine computes as the one that scored "
            f"them did; compare the versions in {path} with those installed; nothing was written"
        ) from error
    if published.weights is None:
        same = "its weights were never scored, so there is nothing to compare them with"
    elif alike:
        same = "the weights that were scored, bit for bit"
    else:
        same = "other weights in the last bits: this kind of processor rounds differently"
    say(console, f"wrote {out}: {same}")
