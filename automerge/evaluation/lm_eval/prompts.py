"""The prompts of tasks' documents, as token ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from automerge.evaluation.lm_eval.isolation import isolated
from automerge.evaluation.lm_eval.requests import build_requests
from automerge.evaluation.lm_eval.tasks import TaskSet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def prompt_tokens(
    task_set: TaskSet, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, length: int
) -> Callable[[str, int], tuple[int, ...]]:
    """Return a function of leaf task and doc id to the last `length` tokens of its prompt.

    The prompt is that of a document's first request. Where there is no text before what is scored,
    it is the text that is scored.

    Raises:
        PreflightError: prompts cannot be made.
    """
    from lm_eval.models.huggingface import HFLM

    with isolated():
        lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1)
    requests = build_requests(task_set.tasks, task_set.settings, lm)
    texts = {item: _text(first.args) for item, (first, *_) in requests.items()}

    def of(leaf: str, number: int) -> tuple[int, ...]:
        tokens: list[int] = lm.tok_encode(texts[leaf, number])
        return tuple(tokens[-length:]) or (lm.prefix_token_id,)

    return of


def _text(arguments: tuple[object, ...]) -> str:
    context, *rest = arguments
    return str(context) or next((text for text in rest if isinstance(text, str)), "")
