"""A model's answers to lm-eval's requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from automerge.evaluation.lm_eval.requests import Item
from automerge.evaluation.loglikelihood.forward import LogLikelihood

Answer: TypeAlias = LogLikelihood | float | str
"""What lm-eval's `loglikelihood`, `loglikelihood_rolling` and `generate_until` return."""


@dataclass(frozen=True)
class Answers:
    """A model's answers to the requests of some items, in lm-eval's order within each item.

    `tokens` is how many tokens the model has read and written for them; `notes` are figures about
    the generated texts; `generate_s` is how many seconds it took to generate them.
    """

    by_item: Mapping[Item, tuple[Answer, ...]]
    tokens: int
    notes: Mapping[str, float] = field(default_factory=dict)
    generate_s: float = 0.0
