"""Calibrated tensors of a merge that is written to disk: those of the live model, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from automerge.checkpoints import Checkpoint, reference_model
from automerge.checkpoints.architecture import read_config
from automerge.checkpoints.kinds import live_class, require_decoder
from automerge.checkpoints.reader import read_json
from automerge.errors import PreflightError
from automerge.evidence import Evidence
from automerge.merging.resident import ResidentEngine
from automerge.recipe import BASE_VOCABULARY, Recipe


def calibrated_tensors(
    recipe: Recipe, checkpoints: Mapping[str, Checkpoint], evidence: Mapping[str, Evidence]
) -> Mapping[str, Tensor]:
    """Return what calibration makes of a recipe's tensors, by name; nothing without any.

    The whole model is merged in memory, on a GPU if there is one, and runs as workers have it by
    default: in float32 on a processor, in the stored dtype on a GPU.

    Raises:
        PreflightError: It is no causal language model, or has another vocabulary than the base's.
    """
    if not recipe.repair:
        return {}
    if recipe.vocabulary != BASE_VOCABULARY:
        keys = ", ".join(recipe.vocabulary.plain())
        raise PreflightError(f"a model with `{keys}` cannot be calibrated; remove one of them")
    reference = checkpoints[reference_model(recipe)]
    require_decoder(reference, "calibration")
    config = read_config(read_json(reference.assets / "config.json"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float32 if device == "cpu" else config.dtype
    model = live_class(config, reference.tensors)._from_config(config, dtype=dtype)
    model.to(device).eval().requires_grad_(False)
    engine = ResidentEngine(checkpoints, evidence=evidence)
    engine.merge_into(model, recipe)
    return engine.calibrated(model, recipe)
