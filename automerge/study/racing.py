"""Racing on select items: in blocks, until further items would decide nothing.

Everything here follows from the seed and the scores, so a resumed study decides the same.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from automerge.arrays import Floats
from automerge.estimation.intervals import (
    effective_number,
    influence,
    is_unit,
    normal_quantile,
    one_item,
)
from automerge.estimation.sequential import (
    evidence_of_all,
    evidence_of_largest,
    evidence_of_mean,
    log_evidence,
)
from automerge.items import shuffled
from automerge.objective import EXTREMES, ItemScores, Objective, goals
from automerge.trial import Items

FIRST_BLOCK = 64
"""Items per objective in the first block, and at least in the last; each block between doubles
the total so far."""
ALPHA = 0.05
"""The probability of ever dropping a nondominated model."""
NO_TRIAL = -1
"""In place of a trial's number, so that the order differs from any trial's search items."""


@dataclass(frozen=True)
class Race:
    """Which models are dropped, and whether the rest are measured closely enough."""

    dropped: frozenset[int]
    decided: bool


def blocks(pool: Items, members: Mapping[str, Sequence[str]], seed: int) -> list[Items]:
    """Cut items into blocks, in a random order that is the same for all models.

    `members` maps objectives to their leaf tasks, whose items are pooled; an item of several
    objectives comes in the first block that one of them needs it in.
    """
    place: dict[tuple[str, int], int] = {}
    for tasks in members.values():
        ordered = in_order([(t, d) for t in tasks for d in pool[t]], seed)
        last = int(math.log2(max(len(ordered) / FIRST_BLOCK, 1)))
        for at, item in enumerate(ordered):
            block = min(int(math.log2(at / FIRST_BLOCK + 1)), last)
            place[item] = min(block, place.get(item, block))
    cut: list[dict[str, list[int]]] = [
        {task: [] for task in pool} for _ in range(max(place.values(), default=-1) + 1)
    ]
    for (task, doc), block in sorted(place.items()):
        cut[block][task].append(doc)
    return [{task: tuple(docs) for task, docs in block.items() if docs} for block in cut]


def in_order(items: Iterable[tuple[str, int]], seed: int) -> list[tuple[str, int]]:
    """Return the items of a pool in the order in which the race looks at them."""
    pool: dict[str, list[int]] = {}
    for task, doc in items:
        pool.setdefault(task, []).append(doc)
    return shuffled({task: tuple(docs) for task, docs in pool.items()}, seed, NO_TRIAL)


def race(
    objectives: Sequence[Objective],
    scores: Mapping[int, Mapping[str, ItemScores]],
    candidates: Iterable[int],
    *,
    rivals: Container[int],
    pairs: int,
    seed: int,
    resolution: float,
) -> Race:
    """Judge models by scores on common items.

    A candidate is dropped when a rival is better on every goal by evidence that stays valid
    however often one looks (`estimation.sequential`), at level ALPHA over the `pairs` compared
    since the first block; other models, such as parents, never are. The race is decided when the
    95 % interval of every paired difference of a remaining candidate is no wider than
    `resolution` to each side. Neither ever happens where a goal's scores are not within [0, 1], or
    where it is the mean of its own tasks' means without being a group.
    """
    numbers = list(scores)
    rows = [numbers.index(n) for n in candidates if n in scores]
    if not rows:
        return Race(frozenset(), decided=True)
    exact = [_losses(o, scores, seed) for o in goals(objectives) if o.is_exact]
    contests = [_contest(o, scores, seed) for o in goals(objectives) if not o.is_exact]
    known = [contest for contest in contests if contest is not None]
    if len(known) < len(contests):
        return Race(frozenset(), decided=False)
    needed = math.log(max(pairs, 1) / ALPHA)
    evidence = np.min([c.evidence(rows) for c in known], axis=0, initial=np.inf)
    for table in exact:
        better = table[rows, None, 0] < table[None, :, 0]
        evidence = np.where(better, 0.0, evidence)
    evidence[:, [row for row, n in enumerate(numbers) if n not in rivals]] = 0.0
    out = {row for row, against in zip(rows, evidence, strict=True) if (against >= needed).any()}
    left = [row for row in rows if row not in out]
    still = [row for row in range(len(numbers)) if row not in out]
    width = max((contest.half_width(left, still) for contest in known), default=0.0)
    return Race(frozenset(numbers[row] for row in out), decided=width <= resolution)


class _Contest(Protocol):
    """A goal that models are compared on."""

    def evidence(self, rows: Sequence[int]) -> Floats:
        """Return the evidence in nats that each model is better than those of the given rows:
        (rows, models)."""
        ...

    def half_width(self, rows: Sequence[int], others: Sequence[int]) -> float:
        """Return the widest 95 % half width of the differences of rows from others."""
        ...


@dataclass(frozen=True)
class _Task:
    """A mean of item losses, (models, items)."""

    losses: Floats

    def evidence(self, rows: Sequence[int]) -> Floats:
        return log_evidence(self.losses[rows, None] - self.losses[None])

    def half_width(self, rows: Sequence[int], others: Sequence[int]) -> float:
        return _half_width(self.losses[rows, None] - self.losses[others])


@dataclass(frozen=True)
class _Group:
    """A mean of several tasks' means, or the worst of them.

    `tasks` are item losses of each task, (models, items), `influences` of all items on the value,
    (models, items). What tasks are divided by in a `relative` group is an estimate itself, so a
    model is better there only if it is at every task. No half width is below `least`.
    """

    tasks: tuple[Floats, ...]
    influences: Floats
    worst: bool
    relative: bool
    least: float

    def evidence(self, rows: Sequence[int]) -> Floats:
        worse = [own[rows, None] for own in self.tasks]
        better = [own[None] for own in self.tasks]
        differences = [own - other for own, other in zip(worse, better, strict=True)]
        if self.relative:
            return evidence_of_all(differences)
        return evidence_of_largest(worse, better) if self.worst else evidence_of_mean(differences)

    def half_width(self, rows: Sequence[int], others: Sequence[int]) -> float:
        found = _half_width(self.influences[rows, None] - self.influences[others])
        return max(found, self.least)


def _contest(
    objective: Objective, scores: Mapping[int, Mapping[str, ItemScores]], seed: int
) -> _Contest | None:
    """Return how models compare on a goal; None where that is not known to be valid."""
    losses = _losses(objective, scores, seed)
    if not is_unit(np.abs(losses)):
        return None
    if not objective.members:
        return _Task(losses) if objective.aggregation == "mean" else None
    found = {n: own[objective.name] for n, own in scores.items()}
    first = next(iter(found.values()))
    items = in_order(first.items, seed)
    names = np.array([task for task, _ in items])
    tasks = tuple(losses[:, names == name] for name in dict.fromkeys(names.tolist()))
    if len(tasks) < len(objective.members):
        return None
    influences = [influence(_sorted(own, items), objective.aggregation) for own in found.values()]
    return _Group(
        tasks,
        np.array(influences),
        objective.aggregation in EXTREMES,
        objective.relative,
        max(
            one_item(own) * _least_half_width(effective_number(own, objective.aggregation))
            for own in found.values()
        ),
    )


def _sorted(scores: ItemScores, items: Sequence[tuple[str, int]]) -> ItemScores:
    at = {item: row for row, item in enumerate(scores.items)}
    return scores.rows([at[item] for item in items])


def _losses(
    objective: Objective, scores: Mapping[int, Mapping[str, ItemScores]], seed: int
) -> Floats:
    """Return item losses (models, items) in the race's order."""
    of = {n: found[objective.name] for n, found in scores.items()}
    tables = {n: dict(zip(s.items, s.values, strict=True)) for n, s in of.items()}
    items = in_order(next(iter(tables.values()), ()), seed)
    sign = -1.0 if objective.direction == "maximize" else 1.0
    return sign * np.array([[table[item] for item in items] for table in tables.values()])


def _half_width(differences: Floats) -> float:
    """Return the widest 95 % half width of mean differences over the last axis.

    Never less than that of the same number of equal differences (`equal_scores_interval`).
    """
    n, z = differences.shape[-1], normal_quantile(0.95)
    if not differences.size:
        return 0.0
    spread = float(differences.std(axis=-1, ddof=1).max()) if n > 1 else math.inf
    return max(z * spread / math.sqrt(n), _least_half_width(n))


def _least_half_width(n: float) -> float:
    z = normal_quantile(0.95)
    return float(z**2 / (n + z**2))
