"""Call a user's functions on items, and check what they return."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from automerge.errors import AutomergeError
from automerge.evaluation.base import Live, Scored
from automerge.evaluation.generators import seeded
from automerge.evaluation.guards import InvalidOutput, MetricError
from automerge.extensions import raised_at
from automerge.machine.allocation import is_out_of_memory
from automerge.objective import ItemScores
from automerge.text.error import cause
from automerge.trial import Items


@dataclass(frozen=True, eq=False)
class Scoring:
    """A task, the function that scores it under the name the user gave, and all its items."""

    task: str
    reference: str
    function: Callable[..., Any]
    items: tuple[dict[str, Any], ...]


class PythonScorer:
    """Scores items by functions of the live model."""

    def __init__(self, live: Live, scorings: Sequence[Scoring]) -> None:
        self._live, self._scorings = live, tuple(scorings)
        self._spoilt: str | None = None

    def score(self, items: Items) -> Scored:
        """Call every task's function once, on all its items.

        Raises:
            InvalidOutput: a score is not finite.
            MetricError: a function failed, did not return one number per item, or changed the
                model's weights.
        """
        began = time.perf_counter()
        scores = {}
        for scoring in self._scorings:
            ids = items.get(scoring.task, ())
            values = self._call(scoring, ids) if ids else ()
            scores[scoring.task] = ItemScores(tuple((scoring.task, i) for i in ids), values)
        return Scored(scores, forward_s=time.perf_counter() - began)

    def _call(self, scoring: Scoring, ids: Sequence[int]) -> tuple[float, ...]:
        if self._spoilt is not None:
            raise MetricError(self._spoilt)
        model = self._live.model
        given = [copy.deepcopy(scoring.items[i]) for i in ids]
        before = _versions(model)
        try:
            with seeded(), torch.no_grad():
                returned = scoring.function(model, self._live.tokenizer, given)
                found = _numbers(scoring.reference, returned, ids)
        except AutomergeError:
            raise
        except Exception as error:  # whatever a user's function may raise
            if is_out_of_memory(error):
                raise
            at = raised_at(scoring.reference.partition(":")[0].partition(".")[0], error)
            where = "" if at is None else f" ({at})"
            raise MetricError(f"{scoring.reference} raised {cause(error)[:300]}{where}") from error
        finally:
            model.eval().requires_grad_(False)
            if _versions(model) != before:
                self._spoilt = (
                    f"{scoring.reference} changed the model's weights; work on a copy, or leave "
                    "them as they are"
                )
        if self._spoilt is not None:
            raise MetricError(self._spoilt)
        return found


def _versions(model: torch.nn.Module) -> list[tuple[int, int]]:
    """Return what changes with every write into the model's tensors, or when one is replaced."""
    return [
        (id(tensor), tensor._version)
        for tensors in (model.parameters(), model.buffers())
        for tensor in tensors
    ]


def _numbers(reference: str, returned: object, ids: Sequence[int]) -> tuple[float, ...]:
    """Return a function's scores as floats, one per item."""
    if not isinstance(returned, Iterable) or isinstance(returned, str | bytes | dict | set):
        raise MetricError(
            f"{reference} returned {type(returned).__name__}; expected a list of {len(ids)} numbers"
        )
    values = list(returned)
    if len(values) != len(ids):
        raise MetricError(
            f"{reference} returned {len(values)} scores for {len(ids)} items; expected one per item"
        )
    numbers = []
    for value, doc_id in zip(values, ids, strict=True):
        try:
            if isinstance(value, str | bytes):
                raise TypeError
            number = float(value)
        except (TypeError, ValueError) as error:
            raise MetricError(
                f"{reference} returned {value!r:.100} for item {doc_id}; expected a number"
            ) from error
        if not math.isfinite(number):
            raise InvalidOutput(
                f"{reference} returned {number} for item {doc_id}; expected a finite number"
            )
        numbers.append(number)
    return tuple(numbers)
