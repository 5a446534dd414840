"""Tell a broken model from a bad one, before its scores count."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from automerge.errors import AutomergeError

MIN_ANSWERS = 20
"""Fewer equal answers than this can be chance."""


class InvalidOutput(AutomergeError):
    """The model's outputs are not those of a working language model."""


class MetricError(AutomergeError):
    """A task returned something that is not a number for an item."""


def check_log_likelihoods(
    task: str, logprobs: Sequence[float], lengths: Sequence[int], contexts: int
) -> None:
    """Refuse log-likelihoods that are not finite, or the same for every token of every item.

    lm-eval takes the argmax of NaN, which is choice 0, so broken weights can raise accuracy.

    Raises:
        InvalidOutput: naming the task.
    """
    broken = sum(not math.isfinite(value) for value in logprobs)
    if broken:
        raise InvalidOutput(
            f"log-likelihood not finite in task {task!r}: {broken} of {len(logprobs)}; "
            "the merged weights overflow or hold NaN"
        )
    per_token = [value / length for value, length in zip(logprobs, lengths, strict=True)]
    if contexts >= MIN_ANSWERS and max(per_token) - min(per_token) <= 1e-6 * abs(per_token[0]):
        raise InvalidOutput(
            f"all {len(logprobs)} log-likelihoods in task {task!r} are {per_token[0]:.6g} a token; "
            "the merged model ignores its input"
        )


def check_generations(task: str, texts: Sequence[str], truncated: Sequence[bool]) -> None:
    """Refuse one and the same endless text for every prompt.

    One short answer to everything is a bad model, not a broken one.

    Raises:
        InvalidOutput: naming the task.
    """
    if len(texts) >= MIN_ANSWERS and texts[0] and len(set(texts)) == 1 and all(truncated):
        raise InvalidOutput(
            f"all {len(texts)} generations in task {task!r} are the same endless text "
            f"{texts[0][:40]!r}; the merged model ignores its input"
        )


def generation_notes(
    task: str, texts: Sequence[str], truncated: Sequence[bool]
) -> Mapping[str, float]:
    """Shares of generations that are empty, and that reached the limit of new tokens."""
    return {
        f"{task}/empty": sum(not text.strip() for text in texts) / len(texts),
        f"{task}/truncated": sum(truncated) / len(texts),
    }
