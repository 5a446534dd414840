"""The tokenizer, the model and the training loop of the demo zoo."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from experiments.demo_zoo.data import SKILLS, Example, Skill, training_stream
from experiments.demo_zoo.muon import Muon

ROW_TOKENS = 17
IGNORED = -100
SPECIAL_TOKENS = ("<pad>", "<unk>", "<bos>", "<eos>")
WORD = r" ?[a-z]+| ?[^a-z\s]|\s"


def make_tokenizer(examples_per_skill: int, seed: int) -> PreTrainedTokenizerFast:
    """One token per word, digit or sign, a space before it included.

    No token spans two words and none is dropped, so the tokens of a prompt always begin the
    tokens of the prompt with its answer, and decoding gives the text back.
    """
    splitter = pre_tokenizers.Split(Regex(WORD), behavior="isolated")
    words: set[str] = {"\n"}
    for skill in SKILLS.values():
        for example in islice(training_stream(skill, seed, narrow=False), examples_per_skill):
            text = example.prompt + skill.delimiter + example.answer
            words.update(piece for piece, _ in splitter.pre_tokenize_str(text))
    vocabulary = {word: index for index, word in enumerate((*SPECIAL_TOKENS, *sorted(words)))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=128,
    )


def make_base(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """An untrained model of about half a million parameters."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=80,
            intermediate_size=216,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=128,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def encode_rows(
    tokenizer: PreTrainedTokenizerFast, skill: Skill, examples: Iterable[Example]
) -> tuple[Tensor, Tensor]:
    """Token rows padded on the right, and labels that ask for the answer and a newline only."""
    pairs = [(e.prompt, e.prompt + skill.delimiter + e.answer + "\n") for e in examples]
    prompts = tokenizer([prompt for prompt, _ in pairs])["input_ids"]
    texts = tokenizer([text for _, text in pairs])["input_ids"]
    rows = torch.full((len(pairs), ROW_TOKENS), tokenizer.pad_token_id)
    labels = torch.full((len(pairs), ROW_TOKENS), IGNORED)
    for index, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        ids = torch.tensor(text)
        rows[index, : len(text)] = ids
        labels[index, len(prompt) : len(text)] = ids[len(prompt) :]
    return rows, labels


def make_rows(
    tokenizer: PreTrainedTokenizerFast, counts: Mapping[str, int], seed: int, *, narrow: bool
) -> tuple[Tensor, Tensor]:
    """Training rows, `counts` of them for each skill or its narrow part, not yet shuffled."""
    parts = []
    for name, count in counts.items():
        examples = islice(training_stream(SKILLS[name], seed, narrow), count)
        parts.append(encode_rows(tokenizer, SKILLS[name], examples))
    return torch.cat([rows for rows, _ in parts]), torch.cat([labels for _, labels in parts])


def shuffled(parts: Sequence[tuple[Tensor, Tensor]], seed: int) -> tuple[Tensor, Tensor]:
    """Rows and labels of all parts in one random order."""
    rows = torch.cat([rows for rows, _ in parts])
    labels = torch.cat([labels for _, labels in parts])
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    return rows[order], labels[order]


def adamw(parameters: Iterable[Tensor], learning_rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        list(parameters), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.1, fused=True
    )


def muon_and_adamw(model: nn.Module, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the rest."""
    matrices = [p for name, p in model.named_parameters() if "_proj" in name]
    others = [p for name, p in model.named_parameters() if "_proj" not in name]
    return [
        Muon(matrices, lr=2 * learning_rate, weight_decay=0.1),
        adamw(others, learning_rate),
    ]


def train(
    model: nn.Module,
    rows: Tensor,
    labels: Tensor,
    optimizers: Sequence[torch.optim.Optimizer],
    batch_size: int,
) -> None:
    """One pass over the rows: a short warm-up, then a cosine down to a tenth."""
    steps = len(rows) // batch_size
    warm_up = max(1, steps // 20)

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.55 + 0.45 * math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))

    schedules = [torch.optim.lr_scheduler.LambdaLR(o, factor) for o in optimizers]
    model.train()
    for step in range(steps):
        chosen = slice(step * batch_size, (step + 1) * batch_size)
        width = int((labels[chosen] != IGNORED).nonzero()[:, 1].max()) + 1
        logits = model(input_ids=rows[chosen, :width], use_cache=False).logits[:, :-1]
        wanted = labels[chosen, 1:width]
        asked = wanted != IGNORED
        loss = nn.functional.cross_entropy(logits[asked], wanted[asked])
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        if (step + 1) % 100 == 0:
            print(f"  step {step + 1}/{steps} loss {loss.item():.3f}", flush=True)
    model.eval()
