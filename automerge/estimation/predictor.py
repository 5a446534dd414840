"""Predict candidates' scores on unseen items from scores and margins of all candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from automerge.arrays import Bools, Floats, Indices
from automerge.estimation.factors import FIRST_FIT, Factors
from automerge.estimation.margins import above_half, right_probability, temperature
from automerge.objective import ItemScores

_Item = tuple[str, int]


class _Seen(NamedTuple):
    """What a candidate gave on the items it saw, all of shape (seen,), columns ascending."""

    columns: Indices
    values: Floats
    are_margins: Bools


class Predictor:
    """Knows what candidates scored, and by what margin; predicts what they would score elsewhere.

    Where an item has a margin, the tempered probability of the right choice is learned from, else
    the score. Temperatures are chosen once, from the parents' margins, per objective and leaf task.
    """

    def __init__(self, pool: Mapping[str, Sequence[_Item]]) -> None:
        """Begin with no candidate; `pool` are the items of each objective, by its name."""
        self._at: dict[str, dict[_Item, int]] = {}
        self._slices: dict[str, slice] = {}
        kinds: dict[tuple[str, str], int] = {}
        groups: list[int] = []
        tasks: list[int] = []
        for number, (name, items) in enumerate(pool.items()):
            start = len(groups)
            self._at[name] = {item: start + i for i, item in enumerate(items)}
            self._slices[name] = slice(start, start + len(items))
            groups += [number] * len(items)
            tasks += [kinds.setdefault((name, task), len(kinds)) for task, _ in items]
        self._tasks = np.array(tasks, dtype=np.intp)
        self._factors = Factors(np.array(groups, dtype=np.intp))
        self._has_margin = np.zeros(len(groups), dtype=np.bool_)
        self._temperatures = np.ones(len(groups))
        self._waiting: list[tuple[_Seen, bool]] = []
        self._kinds = kinds
        self._chosen: dict[int, float] = {}

    def add(
        self, scores: Mapping[str, ItemScores], margins: Mapping[str, ItemScores], is_parent: bool
    ) -> None:
        """Enter the next candidate.

        Args:
            scores: on some items of the pool, by objective; other objectives are left out.
            margins: of some of these items.
            is_parent: whether it is the base or a source, from which temperatures are chosen.
        """
        seen = self._seen(scores, margins)
        self._has_margin[seen.columns[seen.are_margins]] = True
        if self._factors.ready:
            self._factors.add(seen.columns, self._smooth(seen))
            return
        self._waiting.append((seen, is_parent))
        self._chosen = self._choose_temperatures()
        if len(self._waiting) == FIRST_FIT:
            for task, chosen in self._chosen.items():
                self._temperatures[self._tasks == task] = chosen
            for earlier, _ in self._waiting:
                self._factors.add(earlier.columns, self._smooth(earlier))
            self._waiting = []

    @property
    def temperatures(self) -> dict[tuple[str, str], float]:
        """The temperature by objective and leaf task, where there are margins.

        Each parent's margins may change it, until there are enough candidates to learn from.
        """
        return {
            kind: self._chosen[number]
            for kind, number in self._kinds.items()
            if number in self._chosen
        }

    def settle(self) -> None:
        """Learn from all candidates again, in whichever order they came."""
        self._factors.settle()

    def predictions(self, candidate: int) -> dict[str, Floats]:
        """Return guesses of a candidate's scores on all items, by objective; at first none."""
        if not self._factors.ready:
            return {}
        values, variances = self._factors.predict(candidate)
        guesses = np.where(self._has_margin, above_half(values, variances), values)
        return {name: guesses[own] for name, own in self._slices.items()}

    def _seen(self, scores: Mapping[str, ItemScores], margins: Mapping[str, ItemScores]) -> _Seen:
        known: dict[int, tuple[float, bool]] = {}
        for found, are_margins in ((scores, False), (margins, True)):
            for name, at in self._at.items():
                if name in found:
                    own = found[name]
                    for item, value in zip(own.items, own.values, strict=True):
                        known[at[item]] = value, are_margins
        columns = sorted(known)  # one order, whichever the scores come in
        values, kinds = (
            zip(*(known[column] for column in columns), strict=True) if known else ((), ())
        )
        return _Seen(
            np.array(columns, dtype=np.intp),
            np.array(values, dtype=np.float64),
            np.array(kinds, dtype=np.bool_),
        )

    def _smooth(self, seen: _Seen) -> Floats:
        tempered = right_probability(seen.values, self._temperatures[seen.columns])
        return np.where(seen.are_margins, tempered, seen.values)

    def _choose_temperatures(self) -> dict[int, float]:
        """Return temperatures by number of objective and task.

        They come from the parents that are waiting; where none is, from all that wait.
        """
        parents = [seen for seen, is_parent in self._waiting if is_parent]
        chosen = parents or [seen for seen, _ in self._waiting]
        found: dict[int, list[Floats]] = {}
        for seen in chosen:
            tasks = self._tasks[seen.columns]
            for task in np.unique(tasks[seen.are_margins]).tolist():
                own = seen.values[seen.are_margins & (tasks == task)]
                found.setdefault(task, []).append(own)
        return {task: temperature(np.concatenate(own)) for task, own in found.items()}
