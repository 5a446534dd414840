"""Exact scores of a model on the demo tasks, by the rules lm-eval applies to them.

Multiple choice: the choice with the largest summed log-probability. Generation: greedy tokens
up to the newline must equal the answer. It exists because training loops need a score in
seconds; the scores in the README are checked against lm-eval itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from experiments.demo_zoo.data import Example, Skill

BATCH = 1024
MAX_NEW_TOKENS = 8


def _padded(rows: Sequence[Sequence[int]], pad: int) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])


def _choice_accuracy(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    skill: Skill,
    items: Sequence[Example],
) -> float:
    scores: list[float] = []
    texts = [(i.prompt, i.prompt + skill.delimiter + c) for i in items for c in i.choices]
    prompts = tokenizer([prompt for prompt, _ in texts])["input_ids"]
    wholes = tokenizer([whole for _, whole in texts])["input_ids"]
    for start in range(0, len(texts), BATCH):
        rows = _padded(wholes[start : start + BATCH], 0)
        log_probs = model(input_ids=rows, use_cache=False).logits.float().log_softmax(-1)
        picked = log_probs[:, :-1].gather(-1, rows[:, 1:, None])[..., 0]
        place = torch.arange(1, rows.shape[1])
        first = torch.tensor([len(ids) for ids in prompts[start : start + BATCH]])
        last = torch.tensor([len(ids) for ids in wholes[start : start + BATCH]])
        asked = (place >= first[:, None]) & (place < last[:, None])
        scores += (picked * asked).sum(1).tolist()
    right = 0
    remaining = iter(scores)
    for item in items:
        mine = list(islice(remaining, len(item.choices)))
        right += item.choices[mine.index(max(mine))] == item.answer
    return right / len(items)


def _generation_accuracy(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, items: Sequence[Example]
) -> float:
    right = 0
    prompts = tokenizer([item.prompt for item in items])["input_ids"]
    by_length: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(index)
    for indices in by_length.values():
        out = model(input_ids=torch.tensor([prompts[i] for i in indices]), use_cache=True)
        made = [out.logits[:, -1:].argmax(-1)]
        while len(made) < MAX_NEW_TOKENS:
            out = model(input_ids=made[-1], past_key_values=out.past_key_values, use_cache=True)
            made.append(out.logits[:, -1:].argmax(-1))
        answers = tokenizer.batch_decode(torch.cat(made, 1), skip_special_tokens=True)
        for index, answer in zip(indices, answers, strict=True):
            right += answer.split("\n")[0] == items[index].answer
    return right / len(items)


@torch.inference_mode()
def accuracy(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    skill: Skill,
    items: Sequence[Example],
) -> float:
    """The share of `items` answered correctly."""
    model.eval()
    if items[0].choices:
        return _choice_accuracy(model, tokenizer, skill, items)
    return _generation_accuracy(model, tokenizer, items)
