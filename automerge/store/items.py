"""Item scores as bytes, with a row per leaf task."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from automerge.objective import ItemScores
from automerge.recipe import Coordinate


def pack(scores: ItemScores) -> Iterator[tuple[str, bytes, bytes, bytes | None]]:
    """Yield a row per leaf task: ids as little-endian int32, values and weights as float64."""
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
    """Invert `pack`, given rows in the order of tasks."""
    items: list[tuple[str, int]] = []
    values: list[float] = []
    weights: list[float] = []
    for task, ids, row_values, row_weights in rows:
        items += [(task, int(i)) for i in np.frombuffer(ids, dtype="<i4")]
        values += np.frombuffer(row_values, dtype="<f8").tolist()
        if row_weights is not None:
            weights += np.frombuffer(row_weights, dtype="<f8").tolist()
    return ItemScores(tuple(items), tuple(values), tuple(weights) or None)


def pack_texts(texts: Mapping[tuple[str, int], str]) -> Iterator[tuple[str, bytes, str]]:
    """Yield a row per leaf task: ids as little-endian int32, and a JSON list of texts."""
    for task in dict.fromkeys(task for task, _ in texts):
        own = {doc: text for (name, doc), text in texts.items() if name == task}
        yield task, np.array(list(own), dtype="<i4").tobytes(), json.dumps(list(own.values()))


def unpack_texts(rows: Sequence[tuple[str, bytes, str]]) -> dict[tuple[str, int], str]:
    """Invert `pack_texts`."""
    return {
        (task, int(doc)): text
        for task, ids, texts in rows
        for doc, text in zip(np.frombuffer(ids, dtype="<i4"), json.loads(texts), strict=True)
    }


def pack_slope(
    coordinates: Sequence[Coordinate], by: Mapping[Coordinate, float]
) -> tuple[bytes, bytes]:
    """Return the indices of numbers with a derivative as little-endian int32, and it as float64.

    Args:
        coordinates: the numbers of a recipe, in order.
        by: the derivatives of those that have one.
    """
    numbers = [i for i, coordinate in enumerate(coordinates) if coordinate in by]
    derivatives = [by[coordinates[i]] for i in numbers]
    return np.array(numbers, dtype="<i4").tobytes(), np.array(derivatives, dtype="<f8").tobytes()


def unpack_slope(
    coordinates: Sequence[Coordinate], numbers: bytes, derivatives: bytes
) -> dict[Coordinate, float]:
    """Invert `pack_slope`."""
    at = np.frombuffer(numbers, dtype="<i4").tolist()
    values = np.frombuffer(derivatives, dtype="<f8").tolist()
    return {coordinates[i]: value for i, value in zip(at, values, strict=True)}
