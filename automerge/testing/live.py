"""A live model for tests of what scores models: tiny, random, and of any text."""

from __future__ import annotations

import string
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from automerge.evaluation.base import Live


def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """Return a tokenizer whose tokens are printable characters."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    specials = ["<pad>", "<bos>", "<eos>", "<unk>"]
    vocabulary = {token: i for i, token in enumerate([*specials, *string.printable])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    made: PreTrainedTokenizerBase = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
    )
    return made


def tiny_live() -> Live:
    """Return a random Llama of two layers, in evaluation mode, without gradients; its base is
    another."""
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = LlamaForCausalLM(config)
    model.eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(3)
    base = {
        name: tensor + tensor.std() * torch.randn(tensor.shape, generator=generator).to(tensor)
        for name, tensor in model.state_dict().items()
    }

    def distance() -> float:
        now = model.state_dict()
        moved = sum(float((now[name] - tensor).square().sum()) for name, tensor in base.items())
        return float((moved / sum(float(t.square().sum()) for t in base.values())) ** 0.5)

    @contextmanager
    def as_base() -> Iterator[None]:
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(base)
        try:
            yield
        finally:
            model.load_state_dict(before)

    return Live(model, tokenizer, distance, as_base)


@contextmanager
def other_weights(live: Live) -> Iterator[None]:
    """Change a model's weights in place, as a merge does; give them back at the end."""
    before = [parameter.clone() for parameter in live.model.parameters()]
    generator = torch.Generator().manual_seed(1)
    for parameter in live.model.parameters():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter)
        parameter.copy_(parameter + parameter.std() * noise)
    try:
        yield
    finally:
        for parameter, old in zip(live.model.parameters(), before, strict=True):
            parameter.copy_(old)
