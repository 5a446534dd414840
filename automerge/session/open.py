"""Begin or resume a study: check the inputs, fill the store, build what the loop needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from automerge.config import StudyConfig
from automerge.errors import AutomergeError, StateError
from automerge.executors import EXECUTORS, Executor
from automerge.objective import goals
from automerge.samplers import SAMPLERS
from automerge.session.examine import Examined, examine
from automerge.session.extras import check_extras
from automerge.session.folder import SAMPLES, check_folder, discard, make_folder, write_study
from automerge.session.panel import study_panel
from automerge.session.plan import plan_study
from automerge.session.resume import check_unchanged, resume
from automerge.session.slopes import in_words, obstacle, wanted
from automerge.session.surroundings import machine, versions
from automerge.session.warm import digests_of, warm_start
from automerge.session.workers import device_in_words, start_workers
from automerge.space import Space
from automerge.store.record import Begun, Current, Inputs, Run, StudyModel, StudyRecord
from automerge.store.result import ModelOrigin
from automerge.store.store import Store, exists
from automerge.store.versions import record_versions, version_warnings
from automerge.study import Plan

WARM_FRACTION = 0.25
"""Of the budget, at most, for the front of an earlier study."""


@dataclass(frozen=True)
class Session:
    """A study that is ready to run: everything the driver needs, and how to start workers."""

    config: StudyConfig
    store: Store
    plan: Plan
    space: Space
    sampler: str
    """The sampler's name, "auto" resolved."""
    slopes: str | None
    """Which slopes are followed, in words."""
    executor: Callable[[Callable[[str], None]], Executor]
    """Starts workers; told what to say while none is up."""
    warnings: tuple[str, ...]
    new: bool
    """Whether the study was begun here: if it is then refused, nothing of it is left behind."""

    @property
    def device(self) -> str:
        """What models run on, in a word."""
        return device_in_words(self.config)


def open_session(
    config: StudyConfig, command: str, note: Callable[[str], None] = lambda _: None
) -> Session:
    """Begin the study, or find it in its folder, which is then locked until the store closes.

    Everything that can be refused is refused before the folder is made; `note` is told what is
    downloaded.
    """
    check_extras(config)
    run = Path(config.out)
    check_folder(run)
    found = record = None
    new = not exists(run)
    if new:
        found = examine(config, run, note)
        record = _record(config, found, command)
        make_folder(run)
    try:
        store = Store(run, write=True)
        try:
            if store.begun:
                config = resume(store, config)
                record_versions(store, versions())
            else:
                found = found or examine(config, run, note)
                _begin(store, config, record or _record(config, found, command))
            return _session(store, config, found, new)
        except BaseException:
            store.close()
            raise
    except AutomergeError:
        if new:
            discard(run)
        raise


def _record(config: StudyConfig, found: Examined, command: str) -> StudyRecord:
    """Return what a study begins with; raise ConfigError if limits leave nothing to search with."""
    window = (config.workers or 1) if config.deterministic else None
    inputs = _warmed(config, found)
    plan, space = plan_study(config, inputs, window)
    begun = Begun(
        inputs=inputs,
        sampler=SAMPLERS.resolve(
            config.sampler,
            space,
            len(goals(plan.objectives)),
            config.expected_budget,
            obstacle(config, space, inputs) is None,
        ),
        window=window,
        fingerprint=config.fingerprint(),
        origins=tuple(map(_origin, found.models)),
        machine=machine(),
        started=datetime.now().astimezone().isoformat(timespec="seconds"),
        command=command,
    )
    run = Path(config.out)
    current = Current(config.shared(run).to_plain(), found.models, (Run(0, versions()),))
    return StudyRecord(begun, current)


def _warmed(config: StudyConfig, found: Examined) -> Inputs:
    """Return the inputs with what carries over from an earlier study."""
    if config.warm_start is None:
        return found.inputs
    digests = digests_of(found.models)
    limit = max(round(WARM_FRACTION * config.expected_budget), 1)
    warm = warm_start(Path(config.warm_start), digests, limit, config.locate(("warm_start",)))
    warnings = (*found.inputs.warnings, *warm.notes)
    return replace(found.inputs, warm=warm.recipes, warnings=warnings)


def _origin(model: StudyModel) -> ModelOrigin:
    """Name a model as others can find it: a hub id, or else as the study does."""
    path = model.reference.partition("@")[0] if model.revision else model.reference
    return ModelOrigin(model.name, path, model.revision, model.digest, model.license, model.align)


def _begin(store: Store, config: StudyConfig, record: StudyRecord) -> None:
    from automerge.evaluation.item_file import write_samples

    run = store.path.parent
    study_panel(config).keep(run)
    write_samples(run / SAMPLES, record.begun.inputs.items.test.for_files())
    write_study(run, config, record.current.models)
    store.begin(record)


def _session(store: Store, config: StudyConfig, found: Examined | None, new: bool) -> Session:
    begun = store.study.begun
    plan, space = plan_study(config, begun.inputs, begun.window)
    if problem := SAMPLERS.problem(begun.sampler):
        raise StateError(
            f"{store.path}: the study cannot be resumed with its sampler: {problem}; use the "
            "version of automerge, or the packages, that it was begun with, or choose another "
            "--out"
        )
    return Session(
        config,
        store,
        plan,
        space,
        begun.sampler,
        in_words(config, space, begun.inputs, begun.sampler),
        partial(_start, store, config, found),
        (
            *begun.inputs.warnings,
            *version_warnings(store),
            *EXECUTORS[config.executor].warnings(config.ray_address),
        ),
        new,
    )


def _start(
    store: Store, config: StudyConfig, found: Examined | None, note: Callable[[str], None]
) -> Executor:
    """Start workers, after making sure that models and tasks are still those of the study."""
    run = store.path.parent
    if found is None:
        found = examine(config, run, note)
        check_unchanged(store, found.inputs, found.models)
    begun = store.study.begun
    slopes = wanted(config, begun.sampler)
    return start_workers(config, run, begun.inputs.n_layers, slopes, found, note)
