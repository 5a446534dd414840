"""Begin a study or find it again: check the inputs, fill the store, build what the loop needs."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automerge.config import StudyConfig
from automerge.constraint import Constraint
from automerge.errors import AutomergeError, ConfigError, Fault, PreflightError, StateError
from automerge.evaluation.base import ITEMS_FOLDER, TASKS_FOLDER
from automerge.executors.base import Executor
from automerge.executors.ray import cluster_warnings
from automerge.extensions import installed
from automerge.items import POOL_SHARES, ItemDraw
from automerge.methods import METHODS
from automerge.objective import Objective, goals
from automerge.recipe import BASE, single, uniform_average
from automerge.samplers import SAMPLERS
from automerge.session.panel import study_panel
from automerge.session.resume import check_unchanged, origin_paths, resume
from automerge.session.surroundings import machine, versions
from automerge.space import Space, build_space
from automerge.store.file import FILE
from automerge.store.result import MODEL
from automerge.store.run_folder import LOCK, OWNER
from automerge.store.store import Store, exists
from automerge.store.versions import record_versions, version_warnings
from automerge.study import FirstTrial, Limits, Plan
from automerge.trial import PARTS, Items, Part

if TYPE_CHECKING:
    from automerge.checkpoints import ModelWatch
    from automerge.evaluation.base import OpenTasks
    from automerge.session.preflight import Models

SAMPLES = "test_samples.json"
COPIES = (TASKS_FOLDER, ITEMS_FOLDER)


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
        found = _examine(config, run)
        _plan(config, found.facts, window=None)
        _make(run)
    try:
        store = Store(run, write=True)
        try:
            if store.meta("config") is None:
                found = found or _examine(config, run)
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


def discard(run: Path) -> None:
    """Take back what a refused search wrote into a folder that was empty or not there."""
    for name in COPIES:
        shutil.rmtree(run / name, ignore_errors=True)
    ours = [run / name for name in (SAMPLES, LOCK, OWNER)]
    for path in (*ours, *run.glob(f"{FILE}*")):
        path.unlink(missing_ok=True)
    with suppress(OSError):  # somebody put something else there
        run.rmdir()


def check_folder(run: Path) -> None:
    """Refuse a run folder that is a file, holds something else, or cannot be written."""
    if run.is_dir():
        if not exists(run) and any(run.iterdir()):
            raise ConfigError(
                f"{run} is not empty and holds no study; give another --out, or empty it"
            )
    elif run.exists() or run.is_symlink():
        raise ConfigError(f"{run} is a file; give a folder as --out")
    near = next(parent for parent in (run, *run.absolute().parents) if parent.exists())
    if not near.is_dir() or not os.access(near, os.W_OK | os.X_OK):
        raise PreflightError(f"cannot write in {near}; give another --out, or change its rights")


def _make(run: Path) -> None:
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PreflightError(f"cannot make {run}: {error.strerror}; give another --out") from error


@dataclass(frozen=True)
class _Examined:
    """What preflight found: JSON-ready facts for the store, open tasks, hashed models."""

    facts: Mapping[str, Any]
    tasks: OpenTasks
    watch: ModelWatch


def _examine(config: StudyConfig, run: Path) -> _Examined:
    """Open models and tasks, compare them, and cut the items."""
    from automerge.checkpoints import ModelWatch, sampled_digest
    from automerge.checkpoints.folder.card import licence_of
    from automerge.evaluation.split import SplitPlan
    from automerge.session import preflight

    faults: list[Fault] = []
    models = tasks = None
    try:
        models = preflight.open_models(config.references, BASE, config.locate)
        preflight.check_scores(models)
        recipes = [named.recipe for named in config.recipes]
        faults += preflight.slice_faults(recipes, models, config.locate)
    except PreflightError as error:
        faults += error.faults
    watch = None
    if models is not None:
        folders = {name: folder.path for name, folder in models.folders.items()}
        watch = ModelWatch.hashing(folders)
    with tempfile.TemporaryDirectory() as scratch:
        home = run if any((run / name).is_dir() for name in COPIES) else Path(scratch)
        try:
            tasks = preflight.open_tasks(study_panel(config), home, config.locate)
        except PreflightError as error:
            faults += error.faults
        if faults or models is None or watch is None or tasks is None:
            raise PreflightError(faults)
        evaluation, shares = config.evaluation, config.split
        caps: dict[Part, int] = {}
        if isinstance(evaluation.items_per_candidate, int):
            caps["search"] = POOL_SHARES * evaluation.items_per_candidate
        caps |= {"select": shares.max_select} if shares.max_select else {}
        caps |= {"test": shares.max_test} if shares.max_test else {}
        fractions = {part: getattr(shares, part) for part in PARTS}
        split = preflight.cut(tasks, SplitPlan(fractions, caps))
        facts = {
            "objectives": [asdict(objective) for objective in tasks.objectives],
            "items": {part: split.items(part) for part in PARTS},
            "members": {name: list(leaves) for name, leaves in tasks.members.items()},
            "split": split.digest,
            "clusters": split.clusters,
            "n_layers": models.n_layers,
            "dtype": models.dtype,
            "tasks": dict(tasks.digests()),
            "models": [
                {
                    "name": name,
                    **origin_paths(folder.path, run),
                    "reference": folder.reference,
                    "revision": folder.revision,
                    "digest": watch.digests[name],
                    "sample": sampled_digest(folder.path),
                    "license": licence_of(folder.path),
                }
                for name, folder in models.folders.items()
            ],
            "evidence": _evidence(config, models),
            "warnings": [*models.warnings, *split.notes, *tasks.warnings(split)],
            "score_commands": [
                list(command)
                for command in tasks.commands(
                    Path(MODEL), Path(SAMPLES), scoring_dtype(config, models.dtype)
                )
            ],
        }
    return _Examined(facts, tasks, watch)


def _evidence(config: StudyConfig, models: Models) -> dict[str, dict[str, str]]:
    """Gather what the searched methods need of the sources; digests by kind and source."""
    from automerge.session.gathering import GatherSettings, gather

    kinds = dict.fromkeys(k for name in config.search.methods for k in METHODS[name].needs)
    if config.evidence is None or not kinds:
        return {}
    folders = {name: folder.path for name, folder in models.folders.items()}
    settings = GatherSettings(
        config.evidence.tokens, config.evidence.length, config.evaluation.device
    )
    text = Path(config.evidence.text)
    found = {kind: gather(folders, tuple(config.models), kind, text, settings) for kind in kinds}
    return {
        kind: {name: file.digest for name, file in files.items()} for kind, files in found.items()
    }


def _begin(store: Store, config: StudyConfig, found: _Examined, command: str) -> None:
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


PLANNED = ("objectives", "items", "members", "n_layers", "evidence")
"""What of the facts a plan is made of."""


def _session(store: Store, config: StudyConfig, found: _Examined | None, new: bool) -> Session:
    facts = {key: store.meta(key) for key in PLANNED}
    plan, space = _plan(config, facts, _window(store, config))
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
        partial(_start_executor, store, config, found),
        (
            *store.meta("warnings"),
            *version_warnings(store),
            *cluster_warnings(config.ray_address),
        ),
        new,
    )


def _plan(config: StudyConfig, facts: Mapping[str, Any], window: int | None) -> tuple[Plan, Space]:
    """What is measured, and the space it comes from; raises ConfigError where limits leave none."""
    items: dict[Part, Items] = {
        part: {task: tuple(ids) for task, ids in facts["items"][part].items()} for part in PARTS
    }
    sources = tuple(config.models)
    settings = replace(config.space_settings(), evidence=facts["evidence"])
    space = build_space(settings, BASE, sources, facts["n_layers"], METHODS)
    n_items = config.evaluation.items_per_candidate
    plan = Plan(
        objectives=tuple(Objective(**plain) for plain in facts["objectives"]),
        constraints=tuple(map(Constraint.parse, config.constraints)),
        first=(
            FirstTrial(BASE, "base", single(BASE)),
            *(FirstTrial(name, "source", single(name)) for name in sources),
            FirstTrial("uniform", "uniform", uniform_average(sources)),
            *(FirstTrial(named.name, "recipe", named.recipe) for named in config.recipes),
        ),
        items=items,
        draw=ItemDraw(facts["members"], None if n_items == "full" else n_items, config.seed),
        limits=Limits(
            None if config.budget == "unlimited" else config.budget,
            config.max_items,
            config.max_seconds,
        ),
        shortlist=config.shortlist,
        resolution=config.resolution,
        window=window,
    )
    _check_items(plan, config)
    return plan, space


def _window(store: Store, config: StudyConfig) -> int | None:
    """How many trials a deterministic study keeps in flight: as many as when it began."""
    if not config.deterministic:
        return None
    if store.meta("window") is None:
        store.put_meta(window=config.workers or 1)
    window: int = store.meta("window")
    return window


def _check_items(plan: Plan, config: StudyConfig) -> None:
    """Refuse a limit of items that leaves none to search with."""
    limit = plan.limits.items
    first = sum(plan.n_items(trial.origin) for trial in plan.first)
    needed = first + plan.n_later
    if limit is not None and limit < needed:
        message = (
            f"max_items is {limit}, but base, sources and uniform average take "
            f"{first}, and selection and test up to {plan.n_later}: give "
            f"more than {needed}, or lower split.max_select, split.max_test or shortlist"
        )
        raise ConfigError([Fault(message, config.locate(("max_items",)))])


def _start_executor(
    store: Store, config: StudyConfig, found: _Examined | None, note: Callable[[str], None]
) -> Executor:
    """Start workers, after making sure that models and tasks are still those of the study."""
    from automerge.executors.local import LocalExecutor
    from automerge.executors.ray import RayExecutor, RaySettings
    from automerge.worker.worker import MergeWorker, WorkerSpec, choose_device, expected_identity

    run = store.path.parent
    if found is None:
        found = _examine(config, run)
        check_unchanged(store, found.facts)
    evaluation = config.evaluation
    device = evaluation.device if config.ray_address else choose_device(evaluation.device)
    recipe_methods = [part.method for named in config.recipes for part in named.recipe.parts]
    deeper = [
        sum(piece.n_layers for piece in named.recipe.slices) - store.meta("n_layers")
        for named in config.recipes
    ]
    spec = WorkerSpec(
        models={origin["name"]: Path(origin["path"]) for origin in found.facts["models"]},
        digests={origin["name"]: origin["digest"] for origin in found.facts["models"]},
        base=BASE,
        panel=study_panel(config),
        run=run,
        dtype=evaluation.dtype,
        device=device,
        threads=1 if config.executor == "ray" and device == "cpu" else None,
        methods=tuple(dict.fromkeys([*config.search.methods, *recipe_methods])),
        more_layers=max([config.search.layers.repeat, *deeper]),
        extensions=installed(config.extensions),
    )
    if config.executor == "local":
        return LocalExecutor(partial(MergeWorker, spec, found.tasks, found.watch))
    gpus = 0 if device == "cpu" else 1
    settings = RaySettings(
        config.workers,
        gpus_per_worker=gpus,
        address=config.ray_address,
        expected=expected_identity({m["name"]: m["sample"] for m in found.facts["models"]}),
    )
    return RayExecutor(partial(MergeWorker, spec), settings, note)


def scoring_dtype(config: StudyConfig, stored: str) -> str:
    """What scoring computes in, by torch's name."""
    from automerge.worker.worker import choose_device

    evaluation = config.evaluation
    if evaluation.dtype != "auto":
        return evaluation.dtype
    return "float32" if choose_device(evaluation.device) == "cpu" else stored
