"""Item scores as bytes, a row for each leaf task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from automerge.objective import ItemScores


def pack(scores: ItemScores) -> Iterator[tuple[str, bytes, bytes, bytes | None]]:
    """One row for each leaf task: ids as little-endian int32, values and weights as float64."""
    tasks = dict.fromkeys(task for task, _ in scores.items)
    for task in tasks:
        at = [i for i, (name, _) in enumerate(scores.items) if name == task]
        yield (
            task,
            np.array([scores.items[i][1] for i in at], dtype="<i4").tobytes(),
            np.array([scores.values[i] for i in at], dtype="<f8").tobytes(),
            None
            if scores.weights is None
            else np.array([scores.weights[i] for i in at], dtype="<f8").tobytes(),
        )


def unpack(rows: Sequence[tuple[Any, ...]]) -> ItemScores:
    """Invert `pack` for rows in the order of tasks."""
    items: list[tuple[str, int]] = []
    values: list[float] = []
    weights: list[float] = []
    for task, ids, row_values, row_weights in rows:
        items += [(task, int(i)) for i in np.frombuffer(ids, dtype="<i4")]
        values += np.frombuffer(row_values, dtype="<f8").tolist()
        if row_weights is not None:
            weights += np.frombuffer(row_weights, dtype="<f8").tolist()
    return ItemScores(tuple(items), tuple(values), tuple(weights) or None)
