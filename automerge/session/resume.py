"""Resume a study: what may have changed since, and where its models are now."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from automerge.config import StudyConfig, differences
from automerge.errors import ConfigError, Fault, PreflightError
from automerge.evaluation.base import TASKS_FOLDER
from automerge.files.noise import is_noise
from automerge.recipe import BASE
from automerge.store.record import Inputs, StudyModel
from automerge.store.store import Store


def resume(store: Store, config: StudyConfig) -> StudyConfig:
    """Accept what may change; refuse what would make earlier trials incomparable.

    Models may have moved if their contents are the same.

    Returns:
        The configuration, with the models where they were found.
    """
    run = store.path.parent
    recorded = current = store.study.current
    config = _with_models_found(config, current.models, run)
    changed = differences(current.config, config)
    paths = {change.field for change in changed} & {"base", "models"}
    if paths and current.sources == tuple(config.models):
        current = replace(current, models=_models_elsewhere(config, current.models, run))
    else:
        paths = set()
    refused = [change for change in changed if not change.safe and change.field not in paths]
    if refused:
        raise ConfigError(
            [
                Fault(
                    f"{change.field} was {change.old!r} when the study in {config.out} began and "
                    f"is {change.new!r} now; change it back, or choose another --out",
                    config.locate(tuple(change.field.split("."))),
                )
                for change in refused
            ]
        )
    if changed:
        current = replace(current, config=config.to_plain())
    if current.folder != (now := str(run.resolve())):
        models = (
            replace(model, **origin_paths(locate_model(run, model), run))
            for model in current.models
        )
        current = replace(current, folder=now, models=tuple(models))
    if current != recorded:
        store.renew(current)
    return config


def _with_models_found(config: StudyConfig, models: Sequence[StudyModel], run: Path) -> StudyConfig:
    """Name models by their path from the run folder if their own paths are gone."""
    found = dict(config.references)
    for model in models:
        name = model.name
        if name not in found or is_noise(found[name]):
            continue
        if model.revision or Path(found[name]).expanduser().is_dir():
            continue
        if (folder := locate_model(run, model)).is_dir():
            found[name] = str(folder)
    if found == config.references:
        return config
    moved = {"base": found.pop(BASE), "models": found}
    return config.model_copy(update=moved).located_by(config.locate, config.notes)


def _models_elsewhere(
    config: StudyConfig, models: Sequence[StudyModel], run: Path
) -> tuple[StudyModel, ...]:
    """Return the models at the configuration's paths; refuse those that hold something else."""
    from automerge.checkpoints import resolve, whole_digest

    faults, found = [], []
    for model in models:
        name = model.name
        where = ("base",) if name == BASE else ("models", name)
        if is_noise(config.references[name]):
            found.append(model)
            continue
        folder = resolve(config.references[name])
        if whole_digest(folder.path) != model.digest:
            faults.append(
                Fault(
                    f"{'.'.join(where)} was {model.reference!r} when the study in {config.out} "
                    f"began, and is {folder.reference!r} now, which holds another model; change it "
                    "back, or choose another --out",
                    config.locate(where),
                )
            )
        found.append(
            replace(
                model,
                **origin_paths(folder.path, run),
                reference=folder.reference,
                revision=folder.revision,
            )
        )
    if faults:
        raise ConfigError(faults)
    return tuple(found)


def check_unchanged(store: Store, inputs: Inputs, models: Sequence[StudyModel]) -> None:
    """Read models and tasks completely; refuse those that the study did not begin with."""
    faults = []
    study = store.study
    begun = study.begun.inputs
    for before, now in zip(study.current.models, models, strict=True):
        if before.digest != now.digest:
            faults.append(
                Fault(
                    f"the model {now.name!r} in {now.path} is not what the study began with; "
                    "put it back, or choose another --out"
                )
            )
    if begun.tasks != inputs.tasks:
        message = (
            f"the tasks in {store.path.parent / TASKS_FOLDER} are not what the study began with"
        )
        faults.append(Fault(f"{message}; put them back, or choose another --out"))
    elif begun.split != inputs.split:
        message = "the tasks' documents are not what the study began with"
        faults.append(Fault(f"{message}; put them back, or choose another --out"))
    if faults:
        raise PreflightError(faults)


def origin_paths(folder: Path, run: Path) -> dict[str, str]:
    """Return a model's own path and its path from the run folder."""
    return {"path": str(folder), "relative": os.path.relpath(folder, run.resolve())}


def locate_model(run: Path, model: StudyModel) -> Path:
    """Find a study's model: where it was, or at the same path from the run folder.

    Of several folders, the one that looks like the model is taken; without any, the recorded path.
    """
    from automerge.checkpoints import sampled_digest

    recorded = Path(model.path)
    for folder in (recorded, Path(os.path.normpath(run.resolve() / model.relative))):
        if folder.is_dir() and sampled_digest(folder) == model.sample:
            return folder
    return recorded
