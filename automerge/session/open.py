"""Begin a study or find it again: check the inputs, fill the store, build what the loop needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from automerge.config import StudyConfig
from automerge.errors import AutomergeError, StateError
from automerge.executors import EXECUTORS, Executor
from automerge.objective import goals
from automerge.samplers import SAMPLERS
from automerge.session.examine import Examined, examine
from automerge.session.folder import SAMPLES, check_folder, discard, make_folder
from automerge.session.panel import study_panel
from automerge.session.plan import PLANNED, plan_study
from automerge.session.resume import check_unchanged, resume
from automerge.session.surroundings import machine, versions
from automerge.session.workers import start_workers
from automerge.space import Space
from automerge.store.store import Store, exists
from automerge.store.versions import record_versions, version_warnings
from automerge.study import Plan


@dataclass(frozen=True)
class Session:
    """A study that is ready to go on: all the driver needs, and how to start workers."""

    config: StudyConfig
    store: Store
    plan: Plan
    space: Space
    sampler: str
    """The sampler's name, "auto" resolved."""
    executor: Callable[[Callable[[str], None]], Executor]
    """Starts workers; told what to say while none is up."""
    warnings: tuple[str, ...]
    new: bool
    """Whether the study was begun here: a refusal then leaves nothing of it behind."""


def open_session(config: StudyConfig, command: str) -> Session:
    """Begin the study, or find it in its folder, which is then locked until the store closes.

    Everything that can be refused is refused before the folder is made.
    """
    run = Path(config.out)
    check_folder(run)
    found = None
    new = not exists(run)
    if new:
        found = examine(config, run)
        plan_study(config, found.facts, window=None)
        make_folder(run)
    try:
        store = Store(run, write=True)
        try:
            if store.meta("config") is None:
                found = found or examine(config, run)
                _begin(store, config, found, command)
            else:
                config = resume(store, config)
                record_versions(store, versions())
            return _session(store, config, found, new)
        except BaseException:
            store.close()
            raise
    except AutomergeError:
        if new:
            discard(run)
        raise


def _begin(store: Store, config: StudyConfig, found: Examined, command: str) -> None:
    from automerge.evaluation.item_file import write_samples

    facts = found.facts
    run = store.path.parent
    study_panel(config).keep(run)
    write_samples(run / SAMPLES, facts["items"]["test"])
    store.put_meta(
        config=config.to_plain(),
        fingerprint=config.fingerprint(),
        folder=str(run.resolve()),
        provenance={
            "versions": versions(),
            "models": [
                {
                    "name": origin["name"],
                    "path": origin["reference"].partition("@")[0]
                    if origin["revision"]
                    else origin["path"],
                    "revision": origin["revision"],
                    "digest": origin["digest"],
                    "license": origin["license"],
                }
                for origin in facts["models"]
            ],
            "tasks": facts["tasks"],
            "machine": machine(),
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
            "command": command,
            "score_commands": facts["score_commands"],
        },
        **{key: facts[key] for key in facts if key not in ("tasks", "score_commands")},
    )


def _session(store: Store, config: StudyConfig, found: Examined | None, new: bool) -> Session:
    facts = {key: store.meta(key) for key in PLANNED}
    plan, space = plan_study(config, facts, _window(store, config))
    if store.meta("sampler") is None:
        n_goals = len(goals(plan.objectives))
        sampler = SAMPLERS.resolve(config.sampler, space, n_goals, config.expected_budget)
        store.put_meta(sampler=sampler)
    if problem := SAMPLERS.problem(store.meta("sampler")):
        raise StateError(
            f"{store.path}: the study cannot go on with its sampler: {problem}; use the version of "
            "automerge, or the packages, that it was begun with, or give another --out"
        )
    return Session(
        config,
        store,
        plan,
        space,
        store.meta("sampler"),
        partial(_start, store, config, found),
        (
            *store.meta("warnings"),
            *version_warnings(store),
            *EXECUTORS[config.executor].warnings(config.ray_address),
        ),
        new,
    )


def _window(store: Store, config: StudyConfig) -> int | None:
    """How many trials a deterministic study keeps in flight: as many as when it began."""
    if not config.deterministic:
        return None
    if store.meta("window") is None:
        store.put_meta(window=config.workers or 1)
    window: int = store.meta("window")
    return window


def _start(
    store: Store, config: StudyConfig, found: Examined | None, note: Callable[[str], None]
) -> Executor:
    """Start workers, after making sure that models and tasks are still those of the study."""
    run = store.path.parent
    if found is None:
        found = examine(config, run)
        check_unchanged(store, found.facts)
    return start_workers(config, run, store.meta("n_layers"), found, note)
