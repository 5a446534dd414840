"""Tell a broken model from a bad one, before its scores count."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from automerge.errors import AutomergeError

MIN_ANSWERS = 20
"""Fewer equal answers than this can be chance."""


class InvalidOutput(AutomergeError):
    """The model's outputs are not those of a working language model."""


class MetricError(AutomergeError):
    """A task returned something that is not a number for an item."""


def check_log_likelihoods(
    task: str, logprobs: Sequence[float], lengths: Sequence[int], items: int
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
    if not per_token or items < MIN_ANSWERS:
        return
    if max(per_token) - min(per_token) <= 1e-6 * abs(per_token[0]):
        raise InvalidOutput(
            f"all {len(logprobs)} log-likelihoods in task {task!r} are {per_token[0]:.6g} a token; "
            "the merged model ignores its input"
        )


def generation_notes(
    task: str, texts: Sequence[str], truncated: Sequence[bool]
) -> dict[str, float]:
    """Shares of generations that are empty, reached the limit of new tokens, or are all alike.

    One answer to every prompt is a bad model's, not a broken one's, so it is noted only.
    """
    ((_, most),) = Counter(texts).most_common(1)
    return {
        f"{task}/empty": sum(not text.strip() for text in texts) / len(texts),
        f"{task}/truncated": sum(truncated) / len(texts),
        f"{task}/repeated": most / len(texts) if most > 1 else 0.0,
    }
