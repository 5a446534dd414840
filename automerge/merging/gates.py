"""The gates of a mixture of experts, from prompts or at random, as mergekit-moe makes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from automerge.errors import PreflightError
from automerge.mergekit.moe import Expert, Mixture
from automerge.merging.router import unit

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase


def gates(mixture: Mixture, base: Path, n_layers: int, width: int) -> Tensor:
    """Return a vector per layer and expert, whose product with the hidden state is its score.

    Args:
        mixture: the experts and how their gates are made.
        base: the folder of the base, whose hidden states are those that prompts give.
        n_layers: how many layers it has.
        width: the size of its hidden states.

    Returns:
        (layers, experts, width), the shared expert last, if there is one. From prompts, each is the
        unit vector along the hidden state that enters the layer, for positive prompts less that for
        negative ones, each the mean.
    """
    shape = (n_layers, len(mixture.gated), width)
    generator = torch.Generator().manual_seed(mixture.seed)
    if mixture.gate == "random":
        return torch.randn(shape, generator=generator)
    if mixture.gate == "uniform_random":
        # The default of torch.nn.Linear.
        uniform = 2 * torch.rand(shape, generator=generator) - 1
        return uniform / math.sqrt(width)
    states = _Embedded(base) if mixture.gate == "cheap_embed" else _Hidden(base, mixture.gate)
    found = [_direction(states, expert).expand(n_layers, width) for expert in mixture.gated]
    return torch.stack(found, dim=1)


def _direction(states: _Embedded | _Hidden, expert: Expert) -> Tensor:
    found = states.of(expert.positive)
    if expert.negative:
        found = found - states.of(expert.negative)
    return unit(found)


def _tokenizer(base: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            base, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # whatever transformers says of files it was not written for
        message = f"{base}: prompts need its tokenizer, which does not load: {error}"
        raise PreflightError(f"{message}; set gate_mode: random") from error
    tokenizer.padding_side = "left"
    tokenizer.pad_token_id = tokenizer.bos_token_id
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _tokens(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> BatchEncoding:
    texts = [f"{tokenizer.bos_token or ''}{prompt}" for prompt in prompts]
    return tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)


class _Hidden:
    """Hidden states of the base in bfloat16: the last token's, or the average over tokens."""

    def __init__(self, base: Path, gate: str) -> None:
        from transformers import AutoModelForCausalLM

        self._average = gate == "hidden_avg"
        self._tokenizer = _tokenizer(base)
        self._model = AutoModelForCausalLM.from_pretrained(
            base, dtype=torch.bfloat16, local_files_only=True, trust_remote_code=False
        ).eval()

    def of(self, prompts: Sequence[str]) -> Tensor:
        """Return (layers, width): what enters each layer, averaged over prompts."""
        with torch.no_grad():
            output = self._model(**_tokens(self._tokenizer, prompts), output_hidden_states=True)
        states = torch.stack(output.hidden_states[:-1])
        each = states.sum(dim=2) / states.shape[2] if self._average else states[:, :, -1, :]
        return each.sum(dim=1) / each.shape[1]


class _Embedded:
    """Sums of token embeddings, the same for each layer: no model is run."""

    def __init__(self, base: Path) -> None:
        from automerge.checkpoints import open_checkpoint

        self._tokenizer = _tokenizer(base)
        self._rows = open_checkpoint(base).read("model.embed_tokens.weight").float()

    def of(self, prompts: Sequence[str]) -> Tensor:
        """Return (1, width), of norm 1."""
        tokens = _tokens(self._tokenizer, prompts)
        mask = tokens["attention_mask"].unsqueeze(-1)
        total = (self._rows[tokens["input_ids"]] * mask).sum(dim=(0, 1))
        return unit(total).unsqueeze(0)
