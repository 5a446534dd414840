"""Short requests on which two ways to run a model are compared."""

from __future__ import annotations

from collections.abc import Sequence

from automerge.evaluation.generation.asks import Ask
from automerge.evaluation.loglikelihood.forward import PROBE_TOKENS, PROBES, head_and_tails

LIMITS = (5, 12, 8, 3)
"""How long probes' answers may be: unlike, so that rows are freed at different times."""

PAST = 4
"""How far a probe goes beyond a window."""


def probes(asks: Sequence[Ask], longest: int, window: int) -> list[Ask]:
    """Make asks from others' tokens: one head for all and unlike tails, and one without the head.

    Args:
        asks: what is asked.
        longest: how many tokens the model takes.
        window: up to where every layer sees all tokens before it. If an ask goes beyond, so does a
            probe.
    """
    size = min(PROBE_TOKENS, longest - max(LIMITS))
    pieces = list(dict.fromkeys(a.prompt[:size] for a in asks if len(a.prompt) > PROBES))[:PROBES]
    if not pieces or size <= PROBES:
        return []
    head, tails = head_and_tails(pieces)
    prompts = [head + tail[: max(1, len(tail) - n)] for n, tail in enumerate(tails)]
    prompts.append(pieces[0][::-1])
    made = [Ask(p, (), LIMITS[n % len(LIMITS)]) for n, p in enumerate(dict.fromkeys(prompts))]
    furthest = max(len(ask.prompt) + ask.limit for ask in asks)
    if furthest > window:
        tokens = max((ask.prompt for ask in asks), key=len)
        long = (tokens * (window // len(tokens) + 1))[: min(window, longest - PAST)]
        made.append(Ask(long, (), PAST))
    return made
