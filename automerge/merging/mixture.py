"""A mixture of experts from dense models: a Mixtral folder, one tensor in memory at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from automerge.checkpoints import Checkpoint, TensorInfo, WrittenCheckpoint, write_checkpoint
from automerge.checkpoints.architecture import architecture, read_config
from automerge.errors import PreflightError
from automerge.mergekit.moe import MIXTRAL, Expert, Mixture

DENSE = ("llama", "mistral")
"""Architectures that a Mixtral is but for its feed-forward layers."""
EXPERT = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
_MLP = re.compile(r"model\.layers\.(\d+)\.mlp\.(\w+)\.weight")


@dataclass(frozen=True)
class _Part:
    """A tensor of the mixture: its shape and dtype, and the name of what it is made of."""

    info: TensorInfo
    source: str
    expert: int | None = None


def mixture_settings(mixture: Mixture, base: Checkpoint) -> dict[str, Any]:
    """Return the configuration of a mixture, but for what the base's says already.

    Raises:
        PreflightError: the base's architecture has no mixture.
    """
    from transformers import MixtralConfig, PretrainedConfig

    kind = base.config.get("model_type")
    if kind not in DENSE:
        raise PreflightError(
            f"{base.path}: a Mixtral is made of {' or '.join(DENSE)} models; got {kind}"
        )
    # The defaults of both architectures differ, so what the base leaves to its own is said.
    full = read_config(base.config).to_dict()
    own = MixtralConfig().to_dict().keys() - PretrainedConfig().to_dict().keys()
    return {
        **{key: full[key] for key in sorted(own & full.keys())},
        "model_type": MIXTRAL,
        "architectures": ["MixtralForCausalLM"],
        "num_local_experts": len(mixture.experts),
        "num_experts_per_tok": mixture.per_token,
        "sliding_window": full.get("sliding_window"),
    }


def write_mixture(
    mixture: Mixture,
    checkpoints: Mapping[str, Checkpoint],
    gates: Tensor,
    target: Path,
    texts: Mapping[str, str],
) -> WrittenCheckpoint:
    """Write a mixture as a transformers folder, whole or not at all.

    Args:
        mixture: what to make.
        checkpoints: the base and the experts' models, by name.
        gates: (layers, experts, width).
        target: the folder to write.
        texts: further files, by name.

    Raises:
        PreflightError: the base's architecture has no mixture, or the folder cannot be written.
    """
    base = checkpoints[mixture.base]
    settings = mixture_settings(mixture, base)
    parts = _parts(mixture, base)
    _check(parts, {**base.config, **settings})
    layout = {name: part.info for name, part in parts.items()}
    tensors = _tensors(mixture, checkpoints, gates, parts)
    return write_checkpoint(
        target, layout, tensors, base.assets, settings=settings, texts=dict(texts)
    )


def _parts(mixture: Mixture, base: Checkpoint) -> dict[str, _Part]:
    """List the tensors, in the base's order; a layer's gate is made of its first expert tensor."""
    parts: dict[str, _Part] = {}
    for name, info in base.tensors.items():
        dtype = (mixture.dtype or info.dtype) if info.mergeable else info.dtype
        match = _MLP.fullmatch(name)
        if match is None or match[2] not in EXPERT:
            parts[name] = _Part(TensorInfo(info.shape, dtype), name)
            continue
        block = f"model.layers.{match[1]}.block_sparse_moe"
        if match[2] == "gate_proj":
            shape = (len(mixture.experts), info.shape[1])
            parts[f"{block}.gate.weight"] = _Part(TensorInfo(shape, dtype), match[1])
        for number in range(len(mixture.experts)):
            here = f"{block}.experts.{number}.{EXPERT[match[2]]}.weight"
            parts[here] = _Part(TensorInfo(info.shape, dtype), name, number)
    return parts


def _check(parts: Mapping[str, _Part], config: Mapping[str, Any]) -> None:
    """Refuse tensors that a Mixtral does not have, such as biases."""
    found = architecture(config).keys(list(parts))
    homeless = [name for name, key in found.items() if key is None]
    if homeless:
        raise PreflightError(
            f"a Mixtral has no {', '.join(homeless[:3])}: models with such tensors cannot be made "
            "into one"
        )


def _tensors(
    mixture: Mixture,
    checkpoints: Mapping[str, Checkpoint],
    gates: Tensor,
    parts: Mapping[str, _Part],
) -> Iterator[tuple[str, Tensor]]:
    for name, part in parts.items():
        dtype: torch.dtype = getattr(torch, part.info.dtype)
        if part.expert is not None:
            expert = mixture.experts[part.expert]
            made = _scaled(checkpoints[expert.model].read(part.source), expert, part.source)
        elif name.endswith("block_sparse_moe.gate.weight"):
            made = gates[int(part.source)]
        elif mixture.rest == "average" and dtype.is_floating_point:
            made = _average([checkpoints[expert.model] for expert in mixture.experts], part.source)
        else:
            made = checkpoints[mixture.base].read(part.source)
        yield name, made.to(dtype).contiguous()


def _scaled(tensor: Tensor, expert: Expert, name: str) -> Tensor:
    return tensor * expert.scale if expert.scale != 1 and "down_proj" in name else tensor


def _average(models: Sequence[Checkpoint], name: str) -> Tensor:
    total = models[0].read(name).float().clone()
    for model in models[1:]:
        total += model.read(name).float()
    return total / len(models)
