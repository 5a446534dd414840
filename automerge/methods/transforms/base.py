"""The contract of a transform: what is done to task vectors before a method merges them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from automerge.methods.base import Knob, Operands, Preparation, Statistic, Statistics, Values

if TYPE_CHECKING:
    from torch import Tensor

Scalars: TypeAlias = tuple[tuple[float, ...], ...]
"""Per source the numbers that a transform's kernel computes with."""
FirstStage: TypeAlias = Callable[[Values, Statistics, Sequence[float], Sequence[float]], Scalars]
SecondStage: TypeAlias = Callable[[Operands, Scalars], "tuple[Tensor, ...]"]


@dataclass(frozen=True)
class Transform:
    """A change of task vectors, in two stages like those of a method.

    `coefficients` takes knob values, statistics of the task vectors, how much each source counts
    where sources vote, and the factor of each result; it returns scalars per source. `kernel`
    returns the transformed task vectors times their factors. So a factor is multiplied with a
    transform's own, and the product is rounded once. `seeded`, `statistics`, `prepare` and
    `needs` are what they are for a method. A kernel is elementwise unless it
    has a `prepare` or needs evidence.
    """

    name: str
    paper: str
    knobs: tuple[Knob, ...]
    coefficients: FirstStage
    kernel: SecondStage
    seeded: bool = False
    statistics: tuple[Statistic, ...] = ()
    prepare: Preparation | None = None
    needs: tuple[str, ...] = ()
