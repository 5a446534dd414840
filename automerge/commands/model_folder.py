"""Merge a recipe to a folder that loads anywhere, with the recipe next to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from automerge.commands.bars import progress_bars
from automerge.errors import WeightsDiffer
from automerge.recipe import BASE

if TYPE_CHECKING:
    from rich.console import Console

    from automerge.checkpoints import Checkpoint, ModelWatch
    from automerge.recipe import Recipe
    from automerge.trial import Weights


def write_model(
    recipe: Recipe,
    checkpoints: Mapping[str, Checkpoint],
    references: Mapping[str, str],
    folder: Path,
    watch: ModelWatch,
    console: Console | None,
    scored: Weights | None = None,
    evidence: Sequence[Path] = (),
) -> None:
    """Merge to a folder, with its recipe in automerge's YAML and in mergekit's.

    Evidence that the recipe names is looked up in `evidence`'s folders, then in the cache. Raises
    ModelsChanged where a model's files changed meanwhile, WeightsDiffer where these are not
    the weights that were `scored`; nothing is written then.
    """
    from automerge.checkpoints import adapter_kind, alignments, layout
    from automerge.config.recipe_file import recipe_text
    from automerge.evidence import EvidenceFolders, cache_folder
    from automerge.mergekit import mergekit_text
    from automerge.merging import merge_to_folder

    targets = layout(recipe, {name: checkpoints[name].tensors for name in recipe.models})
    where = [target.place for target in targets]
    kinds = {name: adapter_kind(checkpoints[name].path) for name in recipe.models}
    adapters = {name: kind for name, kind in kinds.items() if kind is not None}
    aligned = {n: how for n, how in alignments(checkpoints).items() if n in recipe.models}
    owner = [BASE] if (adapters or aligned) and BASE in references else []
    used = {name: references[name] for name in dict.fromkeys([*owner, *recipe.models])}
    texts = {
        "recipe.yaml": recipe_text(recipe, used, folder.name, aligned),
        "mergekit.yaml": mergekit_text(recipe, references, where, adapters, aligned),
    }
    with progress_bars(console) as show:

        def progress(done: int, total: int) -> None:
            watch.check()
            show(f"writing {folder.name}", done, total)

        watch.check()
        merge_to_folder(
            recipe,
            checkpoints,
            folder,
            texts=texts,
            progress=progress,
            scored=scored,
            evidence=EvidenceFolders([*evidence, cache_folder()]),
        )


def write_scored(
    recipe: Recipe,
    checkpoints: Mapping[str, Checkpoint],
    references: Mapping[str, str],
    folder: Path,
    watch: ModelWatch,
    console: Console | None,
    scored: Weights | None,
    there: str,
    evidence: Sequence[Path],
    warn: Callable[[], None] = lambda: None,
) -> bool:
    """Merge to a folder as `write_model` does; return whether the weights are those `scored`.

    Others are written only where this machine's arithmetic is not that which scored them, `there`;
    `warn` is called before.
    """
    from automerge.machine.arithmetic import arithmetic

    try:
        write_model(recipe, checkpoints, references, folder, watch, console, scored, evidence)
    except WeightsDiffer:
        if there == arithmetic():
            raise
        warn()
        write_model(recipe, checkpoints, references, folder, watch, console, evidence=evidence)
        return False
    return True
