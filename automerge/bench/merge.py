"""How fast recipes are merged into a live model, compared with copying the same bytes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

import torch

from automerge.bench.shapes import SIZES, empty_model, random_models
from automerge.merging import ResidentEngine, plan_free_memory
from automerge.methods import METHODS, Method
from automerge.recipe import Profile, Recipe, RecipeSource, Value

DEFAULT = (
    *("linear", "slerp", "task_arithmetic", "ties", "dare_linear", "dare_ties", "breadcrumbs"),
    *("della", "sce"),
)
COPIED = 1 << 27
"""The number of elements that a copy moves at once: far more than fit into any cache."""
REPEATS = 5
T = TypeVar("T")


@dataclass(frozen=True)
class MergeTime:
    """One method's times in seconds.

    `first` is the first merge, including preparation, and `merge` the median of later ones; `copy`
    is the time to copy `moved` bytes, which is what a merge reads and writes, in the same run.
    """

    method: str
    sources: int
    first: float
    merge: float
    moved: int
    copy: float

    @property
    def ratio(self) -> float:
        """The time of a merge, relative to the copy."""
        return self.merge / self.copy

    @property
    def bandwidth(self) -> float:
        """Bytes per second."""
        return self.moved / self.merge

    def plain(self) -> dict[str, object]:
        """Return JSON-ready values, with ratio and bandwidth."""
        return {**asdict(self), "ratio": self.ratio, "bandwidth": self.bandwidth}


def bench_merge(
    shape: str,
    n_sources: int,
    methods: Sequence[str],
    repeats: int = REPEATS,
    device: str = "cpu",
) -> Iterator[MergeTime]:
    """Time each method, with different knobs in every merge.

    Args:
        shape: a name in `SIZES`.
        n_sources: the number of sources; fewer for methods that take fewer.
        methods: the methods' names, timed in this order.
        repeats: the number of merges to take the median of.
        device: where the model lives.
    """
    model = empty_model(SIZES[shape])
    models = random_models(model, n_sources)
    model.to(device)
    n = sum(info.n_elements for info in models["base"].tensors.values())
    buffer = torch.zeros(COPIED, dtype=torch.bfloat16, device=device)
    target = torch.zeros_like(buffer)
    plan = plan_free_memory(device)
    for name in methods:
        method = METHODS[name]
        count = min(n_sources, method.max_sources or n_sources)
        engine = ResidentEngine(models, plan.budget, plan.device_budget)
        first = seconds(engine.merge_into, model, varied(method, count, 0))
        moved = 2 * n * (count + method.anchored + 1)
        merges, copies = [], []
        for turn in range(1, repeats + 1):
            made = varied(method, count, turn)
            merges.append(seconds(engine.merge_into, model, made))
            copies.append(seconds(target.copy_, buffer) * moved / (4 * COPIED))
        yield MergeTime(
            name, count, first, statistics.median(merges), moved, statistics.median(copies)
        )


def seconds(work: Callable[..., object], *arguments: object) -> float:
    """Return the wall time of one call, in seconds."""
    start = now()
    work(*arguments)
    return now() - start


def timed(work: Callable[..., T], *arguments: object) -> tuple[T, float, float]:
    """Return a call's result, its wall time and the time that processors spent on it, in seconds.

    Where other programs want the same processors, only the second says what a call costs.
    """
    start, began = time.process_time(), now()
    result = work(*arguments)
    return result, now() - began, time.process_time() - start


def now() -> float:
    """Return the time after any work on a GPU is done."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
    return time.perf_counter()


def varied(method: Method, n_sources: int, turn: int) -> Recipe:
    """Return a recipe whose numbers all differ from those of other turns."""

    def number(name: str, low: float, high: float, i: int) -> Profile:
        share = (0.37 * (i + 1) + 0.113 * turn) % 1.0
        return Profile.of(low + share * (high - low))

    sources = tuple(
        RecipeSource(
            f"source{i + 1}",
            {k.name: number(k.name, *k.search, i) for k in method.source_knobs if k.search},
        )
        for i in range(n_sources)
    )
    knobs: dict[str, Profile | Value] = {
        k.name: number(k.name, *k.search, 0) for k in method.recipe_knobs if k.search
    }
    return Recipe(method.name, sources, base="base" if method.anchored else None, knobs=knobs)
