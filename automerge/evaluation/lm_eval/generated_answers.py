"""Answer generation requests with a live model, and check what it wrote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from automerge.evaluation.generation.base import Generator
from automerge.evaluation.guards import (
    Generation,
    InvalidOutput,
    check_generations,
    generation_notes,
)

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM


def generate(
    lm: HFLM,
    generator: Generator,
    task: str,
    instances: Sequence[Instance],
    length: Callable[[str], int],
) -> tuple[list[str], int, dict[str, float]]:
    """Answer one task's generation requests, and check the answers.

    Args:
        lm: lm-eval's wrapper of the model and tokenizer.
        generator: what answers the requests.
        task: the task's name, for errors and notes.
        instances: its requests, one or more.
        length: counts a prompt's tokens.

    Returns:
        The answers in the order of the requests, how many tokens were read and written, and figures
        about the answers.

    Raises:
        InvalidOutput: the model is broken (see `guards`).
    """
    shortest = min((instance.args[0] for instance in instances), key=len)
    prompt, mask = lm.tok_batch_encode([shortest], left_truncate_len=lm.max_length)
    inputs = {"input_ids": prompt, "attention_mask": mask}
    if lm.backend == "seq2seq":
        inputs["labels"] = prompt[:, -1:]  # for the decoder's first token
    inputs = {name: tensor.to(lm.model.device) for name, tensor in inputs.items()}
    with torch.no_grad():
        logits = lm.model(**inputs, use_cache=False).logits
    if not torch.isfinite(logits).all():
        raise InvalidOutput(
            f"logits not finite in task {task!r}; the merged weights overflow or hold NaN"
        )
    texts = generator.generate(instances)
    generations = []
    for instance, text in zip(instances, texts, strict=True):
        own = list(lm.tok_encode(text, add_special_tokens=False))
        limit = _max_gen_toks(instance, lm.max_gen_toks)
        generations.append(Generation(text, own, len(own) >= limit))
    check_generations(task, generations)
    tokens = sum(len(generation.tokens) for generation in generations)
    tokens += sum(length(instance.args[0]) for instance in instances)
    return texts, tokens, generation_notes(task, generations)


def _max_gen_toks(instance: Instance, default: int) -> int:
    from lm_eval.models.utils import normalize_gen_kwargs

    return int(normalize_gen_kwargs(instance.args[1], default)["max_gen_toks"])
