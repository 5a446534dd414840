"""What a search will cost: time from one measured candidate, memory from headers."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from automerge.checkpoints import open_together
from automerge.config import StudyConfig
from automerge.errors import ConfigError
from automerge.executors.base import Executor
from automerge.files.references import is_local
from automerge.items import BASELINE_SHARES
from automerge.merging.memory import Need, estimate, free_device_bytes, free_host_bytes
from automerge.recipe import BASE, Recipe, uniform_average
from automerge.samplers.random import draw
from automerge.session.open import Session, open_session
from automerge.session.resume import locate_models
from automerge.session.slopes import wanted
from automerge.session.workers import scoring_dtype
from automerge.trial import Failed, Items, Job, Measured, Steering, count_items

SLOPE_SHARE = 1 / 3
"""Share of a candidate's items that slopes are measured on at most, which costs about as much."""
ATTEMPTS = 8
"""Recipes drawn from the space until one can be measured."""


@dataclass(frozen=True)
class Pace:
    """Seconds of one measurement, for how many items."""

    seconds: float
    merge: float
    items: int
    tokens: int

    @property
    def per_item(self) -> float:
        """Seconds of an item, without the merge."""
        return (self.seconds - self.merge) / max(self.items, 1)

    def of(self, items: int) -> float:
        """Seconds of a merge and so many items."""
        return self.merge + self.per_item * items


@dataclass(frozen=True)
class Cost:
    """What a search will cost.

    Attributes:
        first: seconds until a worker was ready and had measured a first merge.
        without: a candidate's measurement without slopes.
        with_slopes: one with slopes; None where the study has none.
        search: seconds of the search, with all workers.
        later: seconds of selection and test at most.
        need: memory of a worker.
        host_free: bytes free on this machine; None if unknown.
        device_free: the same on a worker's GPUs; None without one.
        model: bytes of one exported model.
        exported: how many are exported at most.
        disk_free: bytes free where the run folder will be.
    """

    first: float
    without: Pace
    with_slopes: Pace | None
    search: float
    later: float
    need: Need
    host_free: int | None
    device_free: int | None
    model: int
    exported: int
    disk_free: int


def cost(config: StudyConfig, note: Callable[[str], None]) -> tuple[Session, Cost]:
    """Measure a candidate as the study would, on one worker in this process, and keep nothing.

    Raises:
        AutomergeError: whatever a search would refuse, or a space in which no recipe drawn from the
            prior could be measured.
    """
    with TemporaryDirectory(prefix="automerge-dry-run-") as folder:
        own = {"out": str(Path(folder) / "run"), "executor": "local", "workers": None}
        session = open_session(config.model_copy(update={**own, "ray_address": None}), "--dry-run")
        with session.store as store:
            given = {n: Path(text) for n, text in config.references.items() if is_local(text)}
            models = locate_models(store.path.parent, store.study.current.models, given)
            executor = session.executor(note)
            try:
                return session, _cost(config, session, executor, models)
            finally:
                executor.close()


def total_seconds(
    config: StudyConfig, pace: Pace, first: int, per_trial: int, later: int, workers: int
) -> tuple[float, float]:
    """Return the seconds of a search, and those of selection and test, at most.

    Args:
        config: for its limits.
        pace: of a candidate without slopes; one with slopes costs as much by its price.
        first: initial trials, each on `BASELINE_SHARES` times a candidate's items.
        per_trial: items of a candidate.
        later: items of selection and test, at most.
        workers: that share the work.
    """
    others = max(config.expected_budget - first, 0)
    trials = first * pace.of(BASELINE_SHARES * per_trial) + others * pace.of(per_trial)
    search, rest = trials / workers, pace.per_item * later / workers
    if config.max_seconds is not None:
        search = min(search, max(config.max_seconds - rest, 0.0))
    return search, rest


def _cost(
    config: StudyConfig, session: Session, executor: Executor, models: dict[str, Path]
) -> Cost:
    from automerge.worker.worker import choose_device, worker_devices

    plan = session.plan
    host_free = free_host_bytes()
    device = choose_device(config.evaluation.device)
    frees = [free_device_bytes(one) for one in worker_devices(device, config.gpus_per_worker)]
    device_free = None if device == "cpu" else sum(free or 0 for free in frees)
    items = plan.draw.draw(plan.items.search, 0, 1)
    begun = time.monotonic()
    _measured(executor, [uniform_average(config.trained)], items)
    first = time.monotonic() - begun
    recipes = _candidates(session, config.seed)
    without = _measured(executor, recipes, items)
    slopes = wanted(config, session.sampler) and session.space.structure is None
    with_slopes = None
    if slopes:
        fewer = plan.draw.draw(plan.items.search, 0, SLOPE_SHARE)
        with_slopes = _measured(executor, recipes, fewer, slopes=True)
    checkpoints = open_together(models, BASE)
    stored = scoring_dtype(config, session.store.study.begun.inputs.dtype)
    need = estimate(
        checkpoints, BASE, stored, config.search.methods, config.search.layers.repeat, slopes
    )
    search, later = total_seconds(
        config,
        without,
        len(plan.first),
        count_items(items),
        plan.n_later,
        config.workers or 1,
    )
    near = next(p for p in Path(config.out).absolute().parents if p.exists())
    return Cost(
        first,
        without,
        with_slopes,
        search,
        later,
        need,
        host_free,
        device_free,
        sum(info.n_bytes for info in checkpoints[BASE].tensors.values()),
        {"front": config.shortlist, "knee": 1, "none": 0}[config.export],
        shutil.disk_usage(near).free,
    )


def _candidates(session: Session, seed: int) -> list[Recipe]:
    """Draw recipes from the space."""
    space = session.space
    drawn = (draw(space, np.random.default_rng([seed, i])) for i in range(ATTEMPTS))
    return [space.recipe(params) for params in drawn]


def _measured(
    executor: Executor, recipes: list[Recipe], items: Items, *, slopes: bool = False
) -> Pace:
    """Measure the first recipe that can be."""
    outcome: object = None
    for recipe in recipes:
        executor.submit(Job(-1, recipe, "search", items, steering=Steering() if slopes else None))
        finished = None
        while finished is None:
            finished = executor.next_finished(1.0)
        outcome = finished[1]
        if isinstance(outcome, Measured):
            t = outcome.timings
            return Pace(t.total, t.merge, count_items(items), outcome.tokens)
    reason = outcome.reason if isinstance(outcome, Failed) else "no recipe"
    raise ConfigError(f"none of {len(recipes)} recipes of the space could be measured: {reason}")
