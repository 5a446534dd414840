"""What a search will cost: time from one measured candidate, memory from headers."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from automerge.checkpoints import Checkpoint, open_together
from automerge.checkpoints.outline import Download
from automerge.config import StudyConfig
from automerge.errors import ConfigError
from automerge.evidence.activations import TOKENS
from automerge.executors import Executor, outcome_of
from automerge.files.noise import is_noise
from automerge.files.references import is_local
from automerge.items import BASELINE_SHARES
from automerge.merging.memory import Need, estimate, free_device_bytes, free_host_bytes
from automerge.recipe import BASE, Recipe, uniform_average
from automerge.report.gains import LINE
from automerge.samplers.descent import FEW, MANY
from automerge.samplers.random import draw
from automerge.session.examine import look
from automerge.session.folder import check_folder
from automerge.session.open import Session, open_session
from automerge.session.panel import study_panel
from automerge.session.preflight import Models
from automerge.session.resume import locate_models, named_folders, resumable
from automerge.session.slopes import wanted
from automerge.session.workers import calibrated_tokens, most_asked, scoring_dtype
from automerge.store.record import aligned_by
from automerge.store.run_folder import RunLock
from automerge.store.store import Store, exists
from automerge.study import Plan
from automerge.study.racing import blocks
from automerge.trial import Failed, Items, Job, Measured, Steering, Trial, count_items

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

    def of(self, items: float) -> float:
        """Seconds of a merge and so many items."""
        return self.merge + self.per_item * items


@dataclass(frozen=True)
class Range:
    """Seconds, from the fewest to the most that are expected."""

    low: float
    high: float

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.high + other.high)

    def shared(self, workers: int) -> Range:
        """Return the same work, done by several."""
        return Range(self.low / workers, self.high / workers)


@dataclass(frozen=True)
class Work:
    """What is to be measured, at what price.

    Attributes:
        first: initial trials, each on `BASELINE_SHARES` times a candidate's items.
        others: further trials, at the price of a candidate without slopes.
        per_trial: items of a candidate.
        baselines: models that the front is compared with.
        sweep: linear merges of a sweep that are left to search, and all of them.
        merges: shortlisted merges.
        select: items of selection, and of its first block.
        blocks: blocks of selection.
        test: items of the test.
        explained: measurements with slopes of the model to take.
    """

    first: int
    others: float
    per_trial: int
    baselines: int
    sweep: tuple[int, int]
    merges: int
    select: tuple[int, int]
    blocks: int
    test: int
    explained: int


@dataclass(frozen=True)
class Cost:
    """What a search will cost.

    Attributes:
        first: seconds until a worker was ready and had measured a first merge.
        without: a candidate's measurement without slopes.
        with_slopes: one with slopes; None where the study has none.
        search: seconds of what is left of the search, with all workers.
        later: seconds of selection and test.
        done: trials that were asked for in earlier runs.
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
    search: Range
    later: Range
    done: int
    need: Need
    host_free: int | None
    device_free: int | None
    model: int
    exported: int
    disk_free: int


@dataclass(frozen=True)
class Ahead:
    """What is known of a search before its models are downloaded.

    Attributes:
        download: what has to be downloaded first.
        need: memory of a worker, without slopes.
        host_free: bytes free on this machine; None if unknown.
        model: bytes of one exported model.
        exported: how many are exported at most.
        disk_free: bytes free where the run folder will be.
    """

    download: Download
    need: Need
    host_free: int | None
    model: int
    exported: int
    disk_free: int


def cost(config: StudyConfig, note: Callable[[str], None]) -> tuple[Session, Cost]:
    """Measure a candidate as the study would, on one worker in this process, and keep nothing.

    Raises:
        AutomergeError: whatever a search would refuse, or a space in which no recipe drawn from the
            prior could be measured.
    """
    config, done = _earlier(config)
    with TemporaryDirectory(prefix="automerge-dry-run-") as folder:
        own = {"out": str(Path(folder) / "run"), "executor": "local", "workers": None}
        session = open_session(config.model_copy(update={**own, "ray_address": None}), "--dry-run")
        with session.store as store:
            given = named_folders(config.references)
            models = locate_models(store.path.parent, store.study.current.models, given)
            executor = session.executor(note)
            try:
                return session, _cost(config, session, executor, models, done)
            finally:
                executor.close()


def ahead(config: StudyConfig) -> Ahead | None:
    """Return what a search will take, before its models are downloaded; None if all are there.

    Raises:
        AutomergeError: whatever a search would refuse.
    """
    if all(is_local(text) or is_noise(text) for text in config.references.values()):
        return None
    needs: list[tuple[Need, int]] = []

    def seen(models: Models) -> None:
        # No text is read yet, so padding is not known.
        text = config.evidence if config.search.calibrate else None
        tokens = 0 if text is None else min(text.tokens, TOKENS)
        need = _need(config, models.checkpoints, models.dtype, models.n_layers, False, tokens)
        needs.append((need, _model_bytes(models.checkpoints)))

    check_folder(Path(config.out))
    with TemporaryDirectory(prefix="automerge-dry-run-") as scratch:
        found, _ = look(config, Path(config.out), Path(scratch), seen)
    [(need, model)] = needs
    if not isinstance(found, Download):
        return None
    return Ahead(found, need, free_host_bytes(), model, _exported(config), _disk_free(config))


def expected_seconds(
    work: Work, without: Pace, with_slopes: Pace | None, limit: float | None, workers: int
) -> tuple[Range, Range]:
    """Return the seconds of the search, and those of selection and test.

    How many trials have slopes is up to the sampler: none or all, and on how many items. Selection
    ends after its first block if that decides it; the test is of one merge at least.

    Args:
        work: what is to be measured.
        without: the pace of a candidate without slopes.
        with_slopes: the pace of one on `MANY` of the items; None where there are none.
        limit: the seconds of the whole search at most, after which selection and test follow.
        workers: that share the work.
    """
    each = [without.of(work.per_trial)]
    explained = 0.0
    if with_slopes is not None:
        n = MANY * work.per_trial
        fewest = MANY / FEW
        each += [with_slopes.of(n), with_slopes.of(n) + (fewest - 1) * with_slopes.merge]
        explained = work.explained * with_slopes.of(n)
    first = work.first * without.of(BASELINE_SHARES * work.per_trial)
    first += work.sweep[0] * without.of(work.per_trial)
    search = Range(first + work.others * min(each), first + work.others * max(each))
    models = work.baselines + work.sweep[1] + work.merges
    whole, block = work.select
    later = Range(
        models * without.of(block) + (work.baselines + 1) * without.of(work.test),
        models * (without.of(whole) + (work.blocks - 1) * without.merge)
        + models * without.of(work.test)
        + explained,
    ).shared(workers)
    search = search.shared(workers)
    if limit is not None:
        search = Range(*(min(s, max(limit - later.high, 0.0)) for s in (search.low, search.high)))
    return search, later


def _earlier(config: StudyConfig) -> tuple[StudyConfig, list[Trial]]:
    """Return the configuration, as a search would resume it, and the trials there are already.

    Raises:
        AutomergeError: whatever a search would refuse of its folder.
    """
    run = Path(config.out)
    check_folder(run)
    if not exists(run):
        return config, []
    RunLock(run).release()
    with Store(run, write=False) as store:
        if not store.begun:
            return config, []
        config, _ = resumable(store, config)
        same = store.duplicates()
        return config, [trial for trial in store.trials() if trial.number not in same]


def _work(config: StudyConfig, plan: Plan, done: Sequence[Trial], slopes: bool) -> Work:
    """Return what is left to measure, after the trials that are done."""
    spent = [plan.price(trial)[0] for trial in done if trial.number >= len(plan.first)]
    left = plan.first[len(done) - len(spent) :]
    sweep = sum(first.origin == "sweep" for first in left)
    cut = blocks(plan.items.select, plan.draw.members, plan.draw.seed)
    return Work(
        first=len(left) - sweep,
        others=max(config.expected_budget - len(plan.first) - sum(spent), 0.0),
        per_trial=plan.n_items("sampler"),
        baselines=plan.n_baselines,
        sweep=(sweep, plan.n_sweep),
        merges=plan.shortlist,
        select=(count_items(plan.items.select), count_items(cut[0]) if cut else 0),
        blocks=len(cut),
        test=plan.items.test.count,
        explained=len(LINE) if slopes else 0,
    )


def _cost(
    config: StudyConfig,
    session: Session,
    executor: Executor,
    models: dict[str, Path],
    done: Sequence[Trial],
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
    slopes = wanted(config, session.sampler)
    with_slopes = None
    if slopes:
        fewer = plan.draw.draw(plan.items.search, 0, MANY)
        with_slopes = _measured(executor, recipes, fewer, slopes=True)
    checkpoints = open_together(models, BASE, aligned_by(session.store.study.current.models))
    inputs = session.store.study.begun.inputs
    tokens = calibrated_tokens(config, inputs.evidence)
    need = _need(config, checkpoints, inputs.dtype, inputs.n_layers, slopes, tokens)
    search, later = expected_seconds(
        _work(config, plan, done, slopes),
        without,
        with_slopes,
        config.max_seconds,
        config.workers or 1,
    )
    return Cost(
        first,
        without,
        with_slopes,
        search,
        later,
        len(done),
        need,
        host_free,
        device_free,
        _model_bytes(checkpoints),
        _exported(config),
        _disk_free(config),
    )


def _need(
    config: StudyConfig,
    checkpoints: Mapping[str, Checkpoint],
    dtype: str,
    n_layers: int,
    slopes: bool,
    calibrated: int,
) -> Need:
    """Return the memory that a worker needs; `dtype` is that of the base's weights, `calibrated`
    the number of tokens that merges are calibrated on."""
    asked = most_asked(config, n_layers)
    panel = study_panel(config)
    stored = scoring_dtype(config, dtype)
    return estimate(
        checkpoints,
        BASE,
        stored,
        asked.methods,
        asked.more_layers,
        slopes,
        panel.heads,
        panel.engine,
        asked.n_experts,
        calibrated,
    )


def _model_bytes(checkpoints: Mapping[str, Checkpoint]) -> int:
    return sum(info.n_bytes for info in checkpoints[BASE].tensors.values())


def _exported(config: StudyConfig) -> int:
    """Return how many models are exported at most."""
    counts = {"best": 1, "front": config.n_shortlisted, "knee": 1, "adapter": 0, "none": 0}
    return counts[config.export]


def _disk_free(config: StudyConfig) -> int:
    """Return the bytes that are free where the run folder will be."""
    near = next(p for p in Path(config.out).absolute().parents if p.exists())
    return shutil.disk_usage(near).free


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
        steering = Steering() if slopes else None
        outcome = outcome_of(executor, Job(-1, recipe, "search", items, steering=steering))
        if isinstance(outcome, Measured):
            t = outcome.timings
            return Pace(t.total, t.merge, count_items(items), outcome.tokens)
    reason = outcome.reason if isinstance(outcome, Failed) else "no recipe"
    raise ConfigError(f"none of {len(recipes)} recipes of the space could be measured: {reason}")
