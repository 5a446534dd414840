"""Merge to a folder on disk, one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from torch import Tensor

from automerge.checkpoints import (
    Checkpoint,
    WrittenCheckpoint,
    check_target,
    reference_model,
    write_checkpoint,
)
from automerge.checkpoints.grouped import expert_settings
from automerge.checkpoints.settings import TIES
from automerge.checkpoints.stacked import stacked_config
from automerge.checkpoints.writer import SHARD_BYTES
from automerge.evidence import Evidence
from automerge.merging.backends.code import compiled_code
from automerge.merging.calibrated import calibrated_tensors
from automerge.merging.plan import Planner, Step
from automerge.merging.tensor import merge_tensor
from automerge.merging.witness import witnessed
from automerge.merging.workspace import Workspace
from automerge.recipe import Recipe
from automerge.trial import Weights


def merge_to_folder(
    recipe: Recipe,
    checkpoints: Mapping[str, Checkpoint],
    target: Path,
    *,
    texts: Mapping[str, str] | None = None,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    scored: Weights | None = None,
    evidence: Mapping[str, Evidence] = MappingProxyType({}),
) -> WrittenCheckpoint:
    """Write a recipe's merged model as a transformers folder, whole or not at all.

    Configuration and tokenizer are the base's, or the first source's where the recipe names no
    base; slices change what the configuration says of layers, a mixture what it says of experts.
    `texts` are further files, by name; `progress` is told the tensors done and in total.
    `evidence`, by digest, is what methods need besides the models. After an error the target is as
    it was.

    Raises:
        ConfigError: No method takes the recipe.
        PreflightError: The models cannot be merged.
        InvalidMerge: A merged tensor is not finite.
        WeightsDiffer: These are not the weights that were `scored`.
    """
    steps = Planner(checkpoints).plan(recipe)
    tensors = {step.tensor: step.info for step in steps}
    reference = checkpoints[reference_model(recipe)]
    settings = {key: value for key, value in reference.config.items() if key in TIES}
    if recipe.slices:
        settings |= stacked_config(recipe, checkpoints, tensors)
    settings |= expert_settings(recipe, reference)
    workspace = Workspace(checkpoints, compiled=compiled_code(checkpoints), evidence=evidence)
    check_target(target, [checkpoints[model].path for model in recipe.models], overwrite)
    calibrated = calibrated_tensors(recipe, checkpoints, evidence)
    merged = stream(steps, workspace, progress, calibrated)
    return write_checkpoint(
        target,
        tensors,
        merged if scored is None else witnessed(merged, len(steps), scored),
        reference.assets,
        settings=settings,
        texts=texts,
        shard_bytes=shard_bytes,
        overwrite=overwrite,
    )


def stream(
    steps: Sequence[Step],
    workspace: Workspace,
    progress: Callable[[int, int], None] | None,
    calibrated: Mapping[str, Tensor] = MappingProxyType({}),
) -> Iterator[tuple[str, Tensor]]:
    """Merge tensor by tensor, forgetting what was computed for a tensor after it.

    `calibrated` has tensors that are as they should be, by name.
    """
    for done, step in enumerate(steps, start=1):
        merged = calibrated.get(step.tensor)
        if merged is None:
            merged = merge_tensor(step, workspace)
        workspace.release()
        if progress is not None:
            progress(done, len(steps))
        yield step.tensor, merged
