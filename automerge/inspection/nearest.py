"""Which model a source was made from, judged by a sample of weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from automerge.checkpoints import Checkpoint, places
from automerge.inspection.model import Nearest

if TYPE_CHECKING:
    from torch import Tensor

SAMPLED_TENSORS = 16
SAMPLED_ELEMENTS = 1 << 16
DERIVED = 1.0


def find_nearest(checkpoints: Mapping[str, Checkpoint], base: str) -> dict[str, Nearest | None]:
    """Find each source's nearest model; None if its tensors cannot be compared with the base's.

    Compares the first elements of at most 16 matrices, evenly spaced over depth and without
    embeddings, so that vocabularies do not matter and a large model's sample is a few megabytes.
    """
    names = sampled(checkpoints[base])
    samples = {
        name: sample(checkpoint, names)
        for name, checkpoint in checkpoints.items()
        if all(
            n in checkpoint.tensors and checkpoint.tensors[n].shape == info.shape
            for n, info in checkpoints[base].tensors.items()
            if n in names
        )
    }
    found: dict[str, Nearest | None] = {}
    for name in checkpoints:
        if name == base:
            continue
        if name not in samples or not names:
            found[name] = None
            continue
        to = {other: distance(samples[name], samples[other]) for other in samples if other != name}
        # The base wins ties.
        closest = min(to, key=lambda other: (to[other], other != base))
        found[name] = Nearest(closest, to[closest], to[base], to[base] < DERIVED)
    return found


def sampled(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return the names of the matrices to compare."""
    where = places(checkpoint.tensors)
    matrices = [
        name
        for name, info in checkpoint.tensors.items()
        if info.mergeable and len(info.shape) > 1 and where[name].component != "embedding"
    ]
    n = min(SAMPLED_TENSORS, len(matrices))
    return tuple(matrices[i * len(matrices) // n] for i in range(n))


def sample(checkpoint: Checkpoint, names: tuple[str, ...]) -> Tensor:
    """Return the sampled elements in float64; those that are not finite count as 0."""
    import torch

    parts = [checkpoint.read(name).reshape(-1)[:SAMPLED_ELEMENTS].double() for name in names]
    return torch.cat(parts).nan_to_num(0.0, 0.0, 0.0) if parts else torch.zeros(0)


def distance(one: Tensor, other: Tensor) -> float:
    """Return ‖a − b‖ / √(‖a‖‖b‖)."""
    size = math.sqrt(one.norm().item() * other.norm().item())
    difference = (one - other).norm().item()
    return difference / size if size else math.copysign(math.inf, difference) if difference else 0.0
