"""Write a merge as a LoRA adapter of its base, with the recipe and its accuracy next to it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from automerge.commands.bars import progress_bars
from automerge.recipe import BASE

if TYPE_CHECKING:
    from rich.console import Console

    from automerge.checkpoints import Checkpoint, ModelWatch
    from automerge.checkpoints.adapters.write import Trained
    from automerge.merging.adapter import MergedAdapter
    from automerge.recipe import Recipe


@dataclass(frozen=True)
class AsAdapter:
    """How an adapter is written: with modules of at most this rank, or exact if it is None, and of
    the rank `least` or more."""

    rank: int | None = None
    least: int = 0

    def name(self, model: str) -> str:
        """Return what the adapter of a model's merge is called."""
        return model if self.rank is None else f"{model}-r{self.rank}"


ACCURACY = "accuracy.json"
"""The file beside an adapter with the rank and relative error of each module."""
CAUSAL = ("ForCausalLM", "LMHeadModel")
"""The ends of the names of classes that PEFT loads for the task CAUSAL_LM."""


def write_adapter_folder(
    recipe: Recipe,
    checkpoints: Mapping[str, Checkpoint],
    references: Mapping[str, str],
    pinned: str,
    folder: Path,
    how: AsAdapter,
    watch: ModelWatch,
    console: Console | None,
    evidence: Sequence[Path] = (),
) -> MergedAdapter:
    """Merge to a PEFT folder; raises as `merge_to_adapter` and `ModelWatch.check` do.

    `pinned` is the base as PEFT finds it: a folder, or a hub id with its commit after an @.
    """
    from automerge.checkpoints import alignments
    from automerge.config.recipe_file import recipe_text
    from automerge.evidence import EvidenceFolders, cache_folder
    from automerge.merging.adapter import merge_to_adapter

    base = recipe.base or BASE
    used = {name: references[name] for name in dict.fromkeys([base, *recipe.models])}
    aligned = {n: how for n, how in alignments(checkpoints).items() if n in recipe.models}

    def texts(found: MergedAdapter) -> Mapping[str, str]:
        plain = json.dumps(asdict(found), indent=2)
        text = recipe_text(recipe, used, folder.name, aligned)
        return {"recipe.yaml": text, ACCURACY: plain + "\n"}

    with progress_bars(console) as show:

        def progress(done: int, total: int) -> None:
            watch.check()
            show(f"writing {folder.name}", done, total)

        watch.check()
        return merge_to_adapter(
            recipe,
            checkpoints,
            base,
            folder,
            trained_on(checkpoints[base], pinned),
            rank=how.rank,
            least=how.least,
            texts=texts,
            progress=progress,
            evidence=EvidenceFolders([*evidence, cache_folder()]),
        )


def trained_on(base: Checkpoint, pinned: str) -> Trained:
    """Return what an adapter's configuration says of its base, `pinned` as PEFT finds it."""
    from automerge.checkpoints.adapters.write import Trained

    model, _, revision = pinned.partition("@") if not Path(pinned).exists() else (pinned, "", "")
    classes = base.config.get("architectures") or ()
    task = "CAUSAL_LM" if any(str(name).endswith(CAUSAL) for name in classes) else None
    return Trained(model, revision or None, task)


def in_words(found: MergedAdapter) -> str:
    """Return what was written, in a sentence: ranks, error, and what is stored as a whole."""
    ranks = sorted({accuracy.rank for accuracy in found.modules.values()})
    span = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
    worst = max(found.modules, key=lambda name: found.modules[name].relative_error)
    error = found.modules[worst].relative_error
    exact = (
        f"relative error {found.relative_error:.2g} in all, at most {error:.2g} ({worst})"
        if error
        else "exact but for rounding"
    )
    more = f"; {len(found.whole)} tensors stored whole" if found.whole else ""
    return f"{len(found.modules)} modules of rank {span}, {exact}{more}"
