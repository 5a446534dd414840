"""Go on with a study: what may have changed since, and what is found again where it now lies."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from automerge.config import StudyConfig, differences
from automerge.errors import ConfigError, Fault, PreflightError
from automerge.evaluation.base import TASKS_FOLDER
from automerge.recipe import BASE
from automerge.store.store import Store


def resume(store: Store, config: StudyConfig) -> StudyConfig:
    """Accept what may change; refuse what would make earlier trials incomparable.

    Models may lie elsewhere, where they hold what they held. Returns the configuration with the
    models where they were found.
    """
    run = store.path.parent
    config = _with_models_found(config, store.meta("models"), run)
    changed = differences(store.meta("config"), config)
    paths = {change.field for change in changed} & {"base", "models"}
    if paths and list(store.meta("config")["models"]) == list(config.models):
        models = _models_elsewhere(config, store.meta("models"), run)
        changed = [change for change in changed if change.field not in paths]
        moved: dict[str, Any] = {"models": models, "config": config.to_plain()}
    else:
        moved = {}
    refused = [change for change in changed if not change.safe]
    if refused:
        raise ConfigError(
            [
                Fault(
                    f"{change.field} was {change.old!r} when the study in {config.out} began, and "
                    f"is {change.new!r} now; change it back, or give another --out",
                    config.locate(tuple(change.field.split("."))),
                )
                for change in refused
            ]
        )
    if changed or moved:
        store.put_meta(**{"config": config.to_plain(), **moved})
    if store.meta("folder") != (now := str(run.resolve())):
        models = [
            {**origin, **origin_paths(locate_model(run, origin), run)}
            for origin in store.meta("models")
        ]
        store.put_meta(folder=now, models=models)
    return config


def _with_models_found(
    config: StudyConfig, origins: list[dict[str, Any]], run: Path
) -> StudyConfig:
    """Name models by where they are found from the run folder, where their own paths are gone."""
    found = dict(config.references)
    for origin in origins:
        name = origin["name"]
        if origin["revision"] or name not in found or Path(found[name]).expanduser().is_dir():
            continue
        if (folder := locate_model(run, origin)).is_dir():
            found[name] = str(folder)
    if found == config.references:
        return config
    moved = {"base": found.pop(BASE), "models": found}
    return config.model_copy(update=moved).located_by(config.locate, config.notes)


def _models_elsewhere(
    config: StudyConfig, origins: list[dict[str, Any]], run: Path
) -> list[dict[str, Any]]:
    """The models' origins by the configuration's paths; refuse those that hold something else."""
    from automerge.checkpoints import resolve, whole_digest

    faults, found = [], []
    for origin in origins:
        name = origin["name"]
        where = ("base",) if name == BASE else ("models", name)
        folder = resolve(config.references[name])
        if whole_digest(folder.path) != origin["digest"]:
            faults.append(
                Fault(
                    f"{'.'.join(where)} was {origin['reference']!r} when the study in {config.out} "
                    f"began, and is {folder.reference!r} now, which holds another model; change it "
                    "back, or give another --out",
                    config.locate(where),
                )
            )
        named = {"reference": folder.reference, "revision": folder.revision}
        found.append({**origin, **origin_paths(folder.path, run), **named})
    if faults:
        raise ConfigError(faults)
    return found


def check_unchanged(store: Store, facts: Mapping[str, Any]) -> None:
    """Refuse models and tasks that are not those the study began with, whole."""
    faults = []
    for before, now in zip(store.meta("models"), facts["models"], strict=True):
        if before["digest"] != now["digest"]:
            faults.append(
                Fault(
                    f"the model {now['name']!r} in {now['path']} is not what the study began with; "
                    "put it back, or give another --out"
                )
            )
    if store.meta("provenance")["tasks"] != facts["tasks"]:
        message = (
            f"the tasks in {store.path.parent / TASKS_FOLDER} are not what the study began with"
        )
        faults.append(Fault(f"{message}; put them back, or give another --out"))
    elif store.meta("split") != facts["split"]:
        message = "the tasks' documents are not what the study began with"
        faults.append(Fault(f"{message}; put them back, or give another --out"))
    if faults:
        raise PreflightError(faults)


def origin_paths(folder: Path, run: Path) -> dict[str, str]:
    """Where a model lies: its own path, and its path from the run folder."""
    return {"path": str(folder), "relative": os.path.relpath(folder, run.resolve())}


def locate_model(run: Path, origin: Mapping[str, Any]) -> Path:
    """Where a model of a study is: where it was, or as far from the run folder as it was.

    Of several folders the one is taken that looks like the model; without any, the recorded path.
    """
    from automerge.checkpoints import sampled_digest

    recorded = Path(origin["path"])
    for folder in (recorded, Path(os.path.normpath(run.resolve() / origin["relative"]))):
        if folder.is_dir() and sampled_digest(folder) == origin["sample"]:
            return folder
    return recorded
