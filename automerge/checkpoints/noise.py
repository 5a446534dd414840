"""Low-rank noise as a source: an adapter whose factors follow from a seed.

The factors are uniform numbers of variance 1, hashed from seed, tensor and element, so they are the
same on every machine and in every block. An (m × n) matrix B·A of rank r has an expected squared
norm of r·m·n, so scaling B by s‖W‖ / √(r·m·n) gives a matrix of s times the norm of the weight W.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from automerge.checkpoints.adapters.folder import WEIGHTS
from automerge.checkpoints.adapters.keys import PREFIX
from automerge.checkpoints.adapters.options import CONFIG
from automerge.checkpoints.hub import ModelFolder
from automerge.checkpoints.places import places
from automerge.checkpoints.reader import Checkpoint
from automerge.errors import PreflightError, StateError
from automerge.files.atomic import write_bytes_atomically
from automerge.files.cache import cache_home
from automerge.files.noise import Noise
from automerge.methods.shared.uniform import uniform
from automerge.recipe import canonical

if TYPE_CHECKING:
    from torch import Tensor

SUFFIX = ".weight"


def noise_folder(noise: Noise, base: Checkpoint) -> ModelFolder:
    """Make an adapter of a base from noise, in automerge's cache; one that is there is kept.

    Only matrices of the layers are changed: not embeddings, output head, norms and biases.

    Raises:
        PreflightError: the base has no such matrices, or the cache cannot be written.
    """
    from safetensors.torch import save

    factors = noise_factors(noise, base)
    if not factors:
        raise PreflightError(f"{noise.text}: {base.path} has no matrices in its layers to change")
    content = save(factors)
    settings = {"peft_type": "LORA", "r": noise.rank, "lora_alpha": noise.rank, "bias": "none"}
    folder = cache_home() / "noise" / hashlib.sha256(content).hexdigest()[:32]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _keep(folder / WEIGHTS, content)
        _keep(folder / CONFIG, json.dumps(settings, indent=2).encode())
    except (OSError, StateError) as error:
        raise PreflightError(f"{noise.text}: cannot be kept in {folder}: {error}") from error
    return ModelFolder(folder.resolve(), noise.text)


def noise_factors(noise: Noise, base: Checkpoint) -> dict[str, Tensor]:
    """Return the factors by their names in an adapter's file, in float32."""
    import torch

    factors: dict[str, Tensor] = {}
    for name, place in places(base.tensors).items():
        info = base.tensors[name]
        matrix = len(info.shape) == 2 and info.mergeable and name.endswith(SUFFIX)
        if place.layer is None or place.component in ("norm", "embedding") or not matrix:
            continue
        rows, columns = info.shape
        weight = float(torch.linalg.vector_norm(base.read(name), dtype=torch.float64))
        size = canonical(noise.scale * weight / math.sqrt(noise.rank * rows * columns))
        module = PREFIX + name.removesuffix(SUFFIX)
        down = _white(noise.seed, name, "A", (noise.rank, columns))
        factors[f"{module}.lora_A{SUFFIX}"] = down
        factors[f"{module}.lora_B{SUFFIX}"] = size * _white(
            noise.seed, name, "B", (rows, noise.rank)
        )
    return factors


def _white(seed: int, tensor: str, factor: str, shape: tuple[int, int]) -> Tensor:
    """Return uniform numbers with mean 0 and variance 1."""
    numbers = uniform(seed, tensor, f"noise {factor}", 0, math.prod(shape))
    return ((numbers - 0.5) * math.sqrt(12)).reshape(shape)


def _keep(path: Path, content: bytes) -> None:
    """Write a file unless it is there with this content: workers may be reading it."""
    if not path.exists() or path.read_bytes() != content:
        write_bytes_atomically(path, content)
