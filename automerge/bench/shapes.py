"""Random models with the shapes of real architectures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from automerge.checkpoints import MemoryCheckpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

POOL = 1 << 24
"""The number of random numbers drawn; every tensor consists of a stretch of them."""


@dataclass(frozen=True)
class Size:
    """The shape of a Qwen2.5 or Llama model: widths, depth, heads and vocabulary."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool = False

    @property
    def n_parameters(self) -> int:
        """The approximate number of weights, without biases and norms."""
        head = self.hidden // self.heads * self.kv_heads
        layer = self.hidden * (2 * self.hidden + 2 * head + 3 * self.inner)
        return self.layers * layer + self.hidden * self.vocabulary * (1 if self.tied else 2)


SIZES = {
    "tiny": Size(256, 1024, 4, 4, 2, 32_000, tied=True),
    "0.1b": Size(896, 4864, 6, 14, 2, 32_000, tied=True),
    "0.5b": Size(896, 4864, 24, 14, 2, 151_936, tied=True),
    "1.5b": Size(1536, 8960, 28, 12, 2, 151_936, tied=True),
    "3b": Size(2048, 11_008, 36, 16, 2, 151_936, tied=True),
    "7b": Size(3584, 18_944, 28, 28, 4, 152_064),
    "8b": Size(4096, 14_336, 32, 32, 8, 128_256),
}
"""Qwen2.5's sizes, and Llama 3.1's 8b; 0.1b has the layers of 0.5b, but a quarter of them."""


def empty_model(size: Size, family: str = "qwen2") -> PreTrainedModel:
    """Return a live bfloat16 model with uninitialised parameters."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        family,
        hidden_size=size.hidden,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        vocab_size=size.vocabulary,
        tie_word_embeddings=size.tied,
    )
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            setattr(module, name, torch.nn.Parameter(torch.empty_like(weight, device="cpu")))
    model.tie_weights()
    model.requires_grad_(False)
    return model


def random_models(model: PreTrainedModel, n_sources: int) -> dict[str, MemoryCheckpoint]:
    """Return a base (σ = 0.02) and fine-tunes of it (σ of the difference 0.001), in bfloat16."""
    generator = torch.Generator().manual_seed(0)
    pool = torch.randn(POOL, generator=generator)
    shapes = {
        name: tensor.shape
        for name, tensor in model.state_dict().items()
        if not (model.config.tie_word_embeddings and name == "lm_head.weight")
    }
    base = {
        name: drawn(pool, i, shape.numel()).mul_(0.02).bfloat16().view(shape)
        for i, (name, shape) in enumerate(shapes.items())
    }
    models = {"base": MemoryCheckpoint(base)}
    for k in range(n_sources):
        content = {}
        for i, (name, shape) in enumerate(shapes.items()):
            step = drawn(pool, 1000 * (k + 1) + i, shape.numel()).mul_(0.001)
            content[name] = step.add_(base[name].flatten()).bfloat16().view(shape)
        models[f"source{k + 1}"] = MemoryCheckpoint(content)
    return models


def drawn(pool: Tensor, number: int, count: int) -> Tensor:
    """Return a stretch of the pool with a different start per number, repeated if need be."""
    if count > POOL:
        return pool.repeat(-(-count // POOL))[:count]
    start = number * 7919 % (POOL - count + 1)
    return pool[start : start + count].clone()
