"""The gates of a layer's experts: vectors whose products with hidden states choose experts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from automerge.checkpoints import Stored
from automerge.errors import PreflightError
from automerge.merging.workspace import Workspace
from automerge.methods.shared.uniform import uniform
from automerge.mixture import EVIDENCE, HIDDEN, RANDOM

LEAST = 1e-8
"""The least norm that a gate is divided by."""


@dataclass(frozen=True)
class Router:
    """How the gates of a layer are made; equal for two exactly when the gates of a layer are.

    `evidence` has, for gates from hidden states, each expert's model and digest.
    """

    gates: str
    n_experts: int
    seed: int = 0
    evidence: tuple[tuple[str, str], ...] = ()


def gate_rows(router: Router, tensor: str, width: int, workspace: Workspace) -> Tensor:
    """Return the gates of one layer, (experts, width), in float32.

    Args:
        router: how they are made. Random ones have elements of mean 0 and variance 1; those from
            hidden states are unit vectors along what evidence has; mergekit-moe's `hidden_avg` is
            the same of a mean over prompts.
        tensor: a tensor of the layer's dense feed-forward part, by which it is told from others.
        width: the size of hidden states.
        workspace: has the evidence.

    Raises:
        PreflightError: evidence is missing, or is not of this layer.
    """
    if router.gates == HIDDEN:
        return torch.stack(
            [_direction(model, digest, tensor, workspace) for model, digest in router.evidence]
        )
    if router.gates == RANDOM:
        numbers = uniform(router.seed, tensor, "gates", 0, router.n_experts * width)
        return ((numbers - 0.5) * math.sqrt(12)).reshape(router.n_experts, width)
    return torch.zeros(router.n_experts, width)


def unit(vectors: Tensor) -> Tensor:
    """Return vectors, along the last axis, divided by their norms."""
    found: Tensor = vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=LEAST)
    return found


def _direction(model: str, digest: str, tensor: str, workspace: Workspace) -> Tensor:
    state = workspace.evidence(digest, EVIDENCE, Stored(model, tensor))
    if state is None:
        raise PreflightError(
            f"the evidence {digest} has no hidden state that enters {tensor}: gather it again with "
            "this base"
        )
    return unit(state.float())
