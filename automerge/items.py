"""The items of a study: sealed until the test, and drawn afresh for each candidate."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from automerge.trial import Items, count_items

BASELINE_SHARES = 4
"""Base, sources and the user's recipes are each scored on this many candidates' worth of items,
because all other candidates are compared with them and predicted from them."""

SLOPE_PASSES = 3
"""Forward passes that take as long as a forward and backward pass, which slopes cost."""

POOL_SHARES = 8
"""The search draws from at most this many candidates' worth of items."""


class Sealed:
    """Test items that nothing reads before the front is chosen; only their number is public.

    Scores on test items are optimistic if anything was selected by them or fitted to them.
    """

    __slots__ = ("__items",)

    def __init__(self, items: Items) -> None:
        self.__items = items

    @property
    def count(self) -> int:
        """The number of items in all tasks together."""
        return count_items(self.__items)

    def open(self, front: Sequence[int] | None) -> Items:
        """Return the items to test a front on.

        Args:
            front: the trials that were chosen, possibly none; None before the choice.

        Raises:
            ValueError: the front is not chosen yet.
        """
        if front is None:
            raise ValueError("the test items are sealed until the front is chosen")
        return self.__items

    def for_files(self) -> Items:
        """Return the items, for writing them to files or scoring a model outside the study."""
        return self.__items

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sealed) and self.__items == other.__items

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Sealed({self.count} items)"


@dataclass(frozen=True)
class StudyItems:
    """The items of each part of the split."""

    search: Items
    select: Items
    test: Sealed


@dataclass(frozen=True)
class ItemDraw:
    """Draws `per_candidate` fresh items of each objective for every trial; None takes all.

    `members` maps objectives to their leaf tasks. Fresh items cover the whole pool, whereas a
    single subset for all trials would be overfitted: the winner's luck on it repeats in every
    neighbour.
    """

    members: Mapping[str, Sequence[str]]
    per_candidate: int | None
    seed: int

    def draw(self, pool: Items, trial: int, shares: float = 1) -> Items:
        """Draw the items of a trial, as its number and the seed determine.

        Objectives of the same task get the same items.

        Args:
            pool: the search items.
            trial: the trial's number.
            shares: how many candidates' worth of items to draw.
        """
        if self.per_candidate is None and shares >= 1:
            return pool
        drawn: dict[str, set[int]] = {task: set() for task in pool}
        for tasks in self.members.values():
            available = {task: pool[task] for task in tasks if task in pool}
            whole = self.per_candidate or sum(map(len, available.values()))
            limit = max(1, round(shares * whole))
            for task, doc in shuffled(available, self.seed, trial)[:limit]:
                drawn[task].add(doc)
        return {task: tuple(sorted(ids)) for task, ids in drawn.items()}


def shuffled(pool: Items, seed: int, trial: int) -> list[tuple[str, int]]:
    """Return all items as (task, doc id) in a random order that differs between trials.

    Which of two items comes first does not depend on the other items, or on the version of a
    library: items are ordered by the number at their doc id in the raw stream of Philox (Salmon et
    al. 2011).
    """
    ranks, items = [], []
    for task, docs in pool.items():
        key = hashlib.blake2b(f"{seed}\0{trial}\0{task}".encode(), digest_size=16).digest()
        stream = np.random.Philox(key=int.from_bytes(key, "little"))
        ranks.append(stream.random_raw(max(docs, default=-1) + 1)[list(docs)])
        items += [(task, doc) for doc in docs]
    order = np.argsort(np.concatenate(ranks), kind="stable") if ranks else ()
    return [items[i] for i in order]
