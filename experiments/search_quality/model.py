"""The tokenizer, the model and the training of the zoos of real text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

IGNORED = -100
ROW_TOKENS = 112
"""Longest row in training; fewer than one document in a hundred is cut."""
VOCABULARY = 1024
BATCH = 24


def make_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE; the tokens of a text cut before a space are the tokens of its two parts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )


def make_base(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """An untrained Llama of a million parameters."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=112,
            intermediate_size=288,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def load(folder: Path) -> LlamaForCausalLM:
    """The stored bfloat16 weights, held in float32 to train on."""
    loaded: LlamaForCausalLM = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return loaded


def make_rows(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """One document a row after the token that begins it, padded on the right, and its labels."""
    found = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    rows = torch.full((len(found), ROW_TOKENS), tokenizer.pad_token_id)
    labels = torch.full((len(found), ROW_TOKENS), IGNORED)
    for index, ids in enumerate(found):
        row = torch.tensor([tokenizer.bos_token_id, *ids])[:ROW_TOKENS]
        rows[index, : len(row)] = row
        labels[index, 1 : len(row)] = row[1:]
    return _bucketed(rows, labels)


def _bucketed(rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sort rows by length within runs of sixteen batches, whose order is then drawn again.

    Training cuts a batch to its longest row: rows of one length leave little padding.
    """
    lengths = (labels != IGNORED).sum(dim=1)
    order = [
        chunk[lengths[chunk].argsort(stable=True)]
        for chunk in torch.arange(len(rows)).split(16 * BATCH)
    ]
    batches = torch.cat(order).split(BATCH)
    drawn = torch.randperm(len(batches), generator=torch.Generator().manual_seed(0)).tolist()
    # A short batch stays last: training takes whole ones from the front.
    drawn.sort(key=lambda i: len(batches[i]) < BATCH)
    chosen = torch.cat([batches[i] for i in drawn])
    return rows[chosen], labels[chosen]


@torch.no_grad()
def bits_per_byte(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]
) -> float:
    """Mean code length of the texts, as lm-eval's metric of the same name."""
    rows, labels = make_rows(tokenizer, texts)
    nats = 0.0
    for start in range(0, len(rows), 64):
        chosen = slice(start, start + 64)
        logits = model(input_ids=rows[chosen], use_cache=False).logits[:, :-1]
        nats += torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels[chosen, 1:].flatten(), reduction="sum"
        ).item()
    return nats / math.log(2) / sum(len(text.encode()) for text in texts)
