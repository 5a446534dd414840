"""Which search items a candidate is measured on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from automerge.trial import Items

BASELINE_SHARES = 4
"""Base, sources and the user's recipes get so many candidates' worth of items: all others are
compared with them, and learn from them."""

POOL_SHARES = 8
"""How many candidates' worth of items the search draws from, at most."""


@dataclass(frozen=True)
class ItemDraw:
    """Draws `per_candidate` fresh items of each objective for every trial; None takes all.

    `members` maps objectives to their leaf tasks. Fresh items cover the whole pool, where one
    subset for all would be overfitted (the winner's luck on it repeats in every neighbour).
    """

    members: Mapping[str, Sequence[str]]
    per_candidate: int | None
    seed: int

    def draw(self, pool: Items, trial: int, shares: int = 1) -> Items:
        """Items of a trial: decided by seed and trial, the same for objectives of one task."""
        if self.per_candidate is None:
            return pool
        limit = shares * self.per_candidate
        kept: dict[str, set[int]] = {task: set() for task in pool}
        for tasks in self.members.values():
            ordered = sorted(
                (rank(self.seed, trial, task, doc), task, doc)
                for task in tasks
                for doc in pool.get(task, ())
            )
            for _, task, doc in ordered[:limit]:
                kept[task].add(doc)
        return {task: tuple(sorted(ids)) for task, ids in kept.items()}


def rank(seed: int, trial: int, task: str, doc: int) -> bytes:
    """A number that orders items at random, anew for every trial."""
    return hashlib.blake2b(f"{seed}\0{trial}\0{task}\0{doc}".encode(), digest_size=8).digest()
