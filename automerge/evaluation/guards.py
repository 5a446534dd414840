"""Tell a broken model from a bad one, before its scores count."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from automerge.errors import AutomergeError

MIN_ANSWERS = 20
"""Fewer equal answers than this may be chance."""

BROKEN_SHARE = 0.95
"""A model is called broken if more than this share of its generations are the same looping text."""

MIN_LOOP, MAX_LOOP, TIMES = 2, 64, 3
"""Most tokens of a phrase, and how often it is repeated at the end of a text that loops."""

ENDLESS = 32
"""A loop that was cut off after fewer tokens might have ended."""


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
            f"all {len(logprobs)} log-likelihoods in task {task!r} are {per_token[0]:.6g} per "
            "token; the merged model ignores its input"
        )


def loops(tokens: Sequence[int]) -> bool:
    """Return whether a text ends in a loop: a phrase of at least two tokens, three times in a row.

    This is the definition of Holtzman et al. (2020, "The Curious Case of Neural Text Degeneration",
    arXiv:1904.09751), for phrases of at most `MAX_LOOP` tokens.
    """
    for length in range(MIN_LOOP, min(MAX_LOOP, len(tokens) // TIMES) + 1):
        end = tokens[-length * TIMES :]
        if end[length:] == end[:-length]:
            return True
    return False


@dataclass(frozen=True)
class Generation:
    """A generated text, its tokens, and whether it reached the limit of new tokens."""

    text: str
    tokens: Sequence[int]
    truncated: bool


def check_generations(task: str, generations: Sequence[Generation]) -> None:
    """Refuse a model that answers nearly every prompt with the same endless loop.

    Nothing else is refused: a weak model may loop, be cut off or be silent on most prompts, in
    different ways, and the base itself must be scored before a search can begin.

    Raises:
        InvalidOutput: naming the task.
    """
    if len(generations) < MIN_ANSWERS:
        return
    endless = Counter(
        g.text for g in generations if g.truncated and len(g.tokens) >= ENDLESS and loops(g.tokens)
    )
    for text, count in endless.most_common(1):
        if count > BROKEN_SHARE * len(generations):
            raise InvalidOutput(
                f"{count} of {len(generations)} generations in task {task!r} are the same endless "
                f"loop, {text[:40]!r}; the merged model ignores its input"
            )


def generation_notes(task: str, generations: Sequence[Generation]) -> dict[str, float]:
    """Return the shares of generations that are empty, truncated, looping or repeated.

    They are signs of a bad model, not of a broken one, so they are only noted.
    """
    n = len(generations)
    ((_, most),) = Counter(g.text for g in generations).most_common(1)
    return {
        f"{task}/empty": sum(not g.text.strip() for g in generations) / n,
        f"{task}/truncated": sum(g.truncated for g in generations) / n,
        f"{task}/looping": sum(loops(g.tokens) for g in generations) / n,
        f"{task}/repeated": most / n if most > 1 else 0.0,
    }
