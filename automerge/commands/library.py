"""`automerge library`: a pool of LoRA adapters → a few, which PEFT's Arrow routes between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from automerge.commands.adapter_folder import AsAdapter, in_words, trained_on, write_adapter_folder
from automerge.errors import ConfigError, PreflightError
from automerge.recipe import BASE, Profile, Recipe, RecipeSource
from automerge.text.say import say

if TYPE_CHECKING:
    from rich.console import Console

    from automerge.checkpoints import LowRank, ModelWatch
    from automerge.session.preflight import Models

LEAST_ADAPTERS = 2
ORIGIN = "library.yaml"
"""The file beside an adapter of clustered ranks that says what it was made of."""


@dataclass(frozen=True)
class Wanted:
    """What a library is to be.

    count: how many clusters.
    rank: of every module of every adapter; None for the highest of the pool.
    dimensions: how many directions of the pool adapters are compared along; None for all.
    units: whether the adapters of a cluster are merged by clustering their ranks, as in LoRA-LEGO,
        rather than averaged.
    """

    count: int
    rank: int | None = None
    dimensions: int | None = None
    units: bool = False


def make_library(models: Sequence[str], wanted: Wanted, out: Path, console: Console) -> None:
    """Divide adapters into clusters, and write what each becomes as an adapter.

    Args:
        models: the base, then the adapters, each NAME=REFERENCE or REFERENCE.
        wanted: what is made of them.
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
    if not 1 <= wanted.count <= len(names):
        expected = f"expected a number from 1 to {len(names)}, that of the adapters"
        raise ConfigError(f"--count: {expected}; got {wanted.count}")
    if out.exists() and any(out.iterdir()):
        raise PreflightError(f"{out} is not empty; name another folder with --out")
    references = {BASE: given[first], **{name: given[name] for name in names}}
    opened = open_models(references, BASE, lambda _: None, note=announcing(console))
    for warning in opened.warnings:
        say(console, f"warning: {warning}")
    checkpoints = opened.checkpoints
    pool = factors({name: checkpoints[name] for name in names}, checkpoints[BASE])
    rank = wanted.rank or max(len(own.down) for found in pool.values() for own in found.values())
    clusters = library(pool, wanted.count, wanted.dimensions)
    watch = ModelWatch({name: folder.path for name, folder in opened.folders.items()})
    for number, cluster in enumerate(clusters, start=1):
        folder = out / f"cluster-{number}"
        if wanted.units:
            own = {name: pool[name] for name in cluster.names}
            how = _clustered(own, rank, opened, references, folder, watch)
        else:
            how = _averaged(cluster.names, rank, opened, references, folder, watch)
        who = ", ".join(cluster.names)
        say(console, f"{folder}: {who} (cosine {cluster.cosine:.2f}), {how}")


def _averaged(
    names: Sequence[str],
    rank: int,
    opened: Models,
    references: Mapping[str, str],
    folder: Path,
    watch: ModelWatch,
) -> str:
    """Write the average of adapters' changes to a rank; return what was written, in words."""
    share = {"weight": Profile.of(1 / len(names))}
    sources = tuple(RecipeSource(name, share) for name in names)
    found = write_adapter_folder(
        Recipe("task_arithmetic", sources, BASE),
        opened.checkpoints,
        references,
        opened.folders[BASE].pinned,
        folder,
        AsAdapter(rank, least=rank),
        watch,
        None,
    )
    return in_words(found)


def _clustered(
    adapters: Mapping[str, Mapping[str, LowRank]],
    rank: int,
    opened: Models,
    references: Mapping[str, str],
    folder: Path,
    watch: ModelWatch,
) -> str:
    """Write the centroids of adapters' ranks; return what was written, in words."""
    from automerge.checkpoints.adapters.sites import sites
    from automerge.checkpoints.adapters.write import Factored, write_adapter
    from automerge.checkpoints.architecture import architecture
    from automerge.files.yaml_file import dump_yaml
    from automerge.merging.rank_clusters import merged_units

    base, own = opened.checkpoints[BASE], list(adapters.values())
    places = sites(base.config, base.tensors)
    factored = []
    for tensor in own[0]:
        watch.check()
        up, down = merged_units([adapter[tensor] for adapter in own], rank)
        factored.append(Factored(places[tensor], up, down))
    made_of = {
        "base": references[BASE],
        "adapters": {name: references[name] for name in adapters},
        "units": {"rank": rank},
    }
    write_adapter(
        folder,
        factored,
        (),
        trained_on(base, opened.folders[BASE].pinned),
        [name for name, _ in architecture(base.config).model.named_modules()],
        inputs=[checkpoint.path for checkpoint in opened.checkpoints.values()],
        texts={ORIGIN: dump_yaml(made_of)},
    )
    ranks = sorted({sum(len(adapter[t].down) for adapter in own) for t in own[0]})
    span = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
    return f"{len(factored)} modules, {span} ranks clustered into {rank}"
