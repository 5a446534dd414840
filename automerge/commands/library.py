"""`automerge library`: a pool of LoRA adapters → a few, which PEFT's Arrow routes between."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from automerge.commands.adapter_folder import AsAdapter, in_words, write_adapter_folder
from automerge.errors import ConfigError, PreflightError
from automerge.recipe import BASE, Profile, Recipe, RecipeSource
from automerge.text.say import say

if TYPE_CHECKING:
    from rich.console import Console

LEAST_ADAPTERS = 2


def make_library(
    models: Sequence[str],
    count: int,
    rank: int | None,
    dimensions: int | None,
    out: Path,
    console: Console,
) -> None:
    """Divide adapters into clusters, and write each cluster's average as an adapter.

    Args:
        models: the base, then the adapters, each NAME=REFERENCE or REFERENCE.
        count: how many clusters.
        rank: of every module of every adapter; None for the highest of the pool.
        dimensions: how many directions of the pool adapters are compared along; None for all.
        out: the folder to write: one folder for each adapter.
        console: where clusters are said.

    Raises:
        ConfigError: there are fewer adapters than clusters.
        PreflightError: a model cannot be read, or is no LoRA adapter that can be routed to.
    """
    from automerge.checkpoints import ModelWatch
    from automerge.commands.announcing import announcing
    from automerge.inspection.examine import name_models
    from automerge.merging.library import factors, library
    from automerge.session.preflight import open_models

    given = name_models(models)
    first, *names = given
    if len(names) < LEAST_ADAPTERS:
        raise ConfigError(f"a library has {LEAST_ADAPTERS} adapters or more; got {len(names)}")
    if not 1 <= count <= len(names):
        wanted = f"expected a number from 1 to {len(names)}, that of the adapters"
        raise ConfigError(f"--count: {wanted}; got {count}")
    if out.exists() and any(out.iterdir()):
        raise PreflightError(f"{out} is not empty; name another folder with --out")
    references = {BASE: given[first], **{name: given[name] for name in names}}
    opened = open_models(references, BASE, lambda _: None, note=announcing(console))
    for warning in opened.warnings:
        say(console, f"warning: {warning}")
    checkpoints = opened.checkpoints
    pool = factors({name: checkpoints[name] for name in names}, checkpoints[BASE])
    each = rank or max(own.down.shape[0] for found in pool.values() for own in found.values())
    watch = ModelWatch({name: folder.path for name, folder in opened.folders.items()})
    for number, cluster in enumerate(library(pool, count, dimensions), start=1):
        share = {"weight": Profile.of(1 / len(cluster.names))}
        sources = tuple(RecipeSource(name, share) for name in cluster.names)
        folder = out / f"cluster-{number}"
        found = write_adapter_folder(
            Recipe("task_arithmetic", sources, BASE),
            checkpoints,
            references,
            opened.folders[BASE].pinned,
            folder,
            AsAdapter(each, least=each),
            watch,
            None,
        )
        who = ", ".join(cluster.names)
        say(console, f"{folder}: {who} (cosine {cluster.cosine:.2f}), {in_words(found)}")
