"""Resume a study: what may have changed since, and where its models are now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from automerge.config import StudyConfig, differences
from automerge.errors import ConfigError, Fault, PreflightError
from automerge.evaluation.base import TASKS_FOLDER
from automerge.files.known import find, is_known, known_reference
from automerge.files.noise import Noise, is_noise
from automerge.files.references import is_local
from automerge.files.shared import near
from automerge.recipe import BASE
from automerge.session.folder import write_study
from automerge.store.record import Current, Inputs, StudyModel
from automerge.store.store import Store

if TYPE_CHECKING:
    from automerge.checkpoints import ModelFolder


def resume(store: Store, config: StudyConfig) -> StudyConfig:
    """Accept what may change, and record it; refuse what `resumable` does.

    Returns:
        The configuration, with the models where they were found.
    """
    config, current = resumable(store, config)
    if current != store.study.current:
        store.renew(current)
        write_study(store.path.parent, config, current.models)
    return config


def resumable(store: Store, config: StudyConfig) -> tuple[StudyConfig, Current]:
    """Return the configuration, with the models where they were found, and what it changes.

    Models may have moved if their contents are the same.

    Raises:
        ConfigError: it would make earlier trials incomparable.
    """
    run = store.path.parent
    current = store.study.current
    config = _with_models_found(config, current.models, run)
    shared = config.shared(run)
    changed = differences(current.config, shared)
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
        current = replace(current, config=shared.to_plain())
    return config, current


def _with_models_found(config: StudyConfig, models: Sequence[StudyModel], run: Path) -> StudyConfig:
    """Name models by where they are found if their own paths are gone."""
    found = dict(config.references)
    for model in models:
        name = model.name
        if name not in found or is_noise(found[name]):
            continue
        if model.revision or Path(found[name]).expanduser().is_dir():
            continue
        if (folder := _found(run, model)) is not None:
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
        reference = reference_of(name, folder, model.digest, run)
        found.append(replace(model, reference=reference, revision=folder.revision))
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
                    f"the model {now.name!r} ({now.reference}) is not what the study began with; "
                    "put it back, or choose another --out"
                )
            )
        elif before.align != now.align:
            faults.append(
                Fault(
                    f"the model {now.name!r} was aligned as {before.align} when the study began, "
                    f"and is as {now.align} now: this machine rounds differently; copy the files "
                    "of the study's alignments to automerge's cache, or choose another --out"
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


def reference_of(name: str, folder: ModelFolder, digest: str, run: Path) -> str:
    """Return how a store names a model: a hub id, noise, a folder near the run, or its digest."""
    if folder.revision is not None or is_noise(folder.reference):
        return folder.reference
    return near(folder.path, run) or known_reference(name, digest)


def named_folders(references: Mapping[str, str]) -> dict[str, Path]:
    """Return the models, by name, that references name by a path on this machine."""
    return {name: Path(text) for name, text in references.items() if is_local(text)}


def locate_models(
    run: Path, models: Sequence[StudyModel], given: Mapping[str, Path] | None = None
) -> dict[str, Path]:
    """Find a study's models, the base first: in the folders given, or where the study says.

    Models of the hub are downloaded, and noise is made, if they are not there. Whether a folder
    holds what the study began with must still be verified.

    Raises:
        ConfigError: a folder is given for a model that the study does not have.
        PreflightError: a model is nowhere; says what to do.
    """
    from automerge.checkpoints import noise_folder, open_checkpoint, resolve

    given = given or {}
    if unknown := [name for name in given if name not in {model.name for model in models}]:
        known = ", ".join(model.name for model in models)
        raise ConfigError(f"{run} has no model {', '.join(unknown)}; its models are {known}")
    folders: dict[str, Path] = {}
    faults: list[Fault] = []
    for model in sorted(models, key=lambda model: model.name != BASE):
        name = model.name
        if name in given:
            folders[name] = resolve(str(given[name])).path
        elif is_noise(model.reference) and BASE in folders:
            base = open_checkpoint(folders[BASE])
            folders[name] = noise_folder(Noise.parse(model.reference), base).path
        elif model.revision is not None:
            folders[name] = _downloaded(model)
        elif (folder := _found(run, model)) is not None:
            folders[name] = folder
        elif not is_noise(model.reference):
            faults.append(
                Fault(
                    f"the model {name!r} ({model.reference}, from {run}) is not on this machine; "
                    f"put it back, or say where it is: --model {name}=FOLDER"
                )
            )
    if faults:
        raise PreflightError(faults)
    return folders


def _found(run: Path, model: StudyModel) -> Path | None:
    """Return the folder, near the run or known to this machine, that looks like the model.

    Without any, it is the folder where the model was, if there is one.
    """
    from automerge.checkpoints import sampled_digest

    named = None if is_known(model.reference) else run.resolve() / model.reference
    folders = [f.resolve() for f in (named, find(model.digest)) if f is not None and f.is_dir()]
    alike = (folder for folder in folders if sampled_digest(folder) == model.sample)
    return next(alike, folders[0] if folders else None)


def _downloaded(model: StudyModel) -> Path:
    """Return the folder of a model of the hub: from the cache if it is whole there."""
    from huggingface_hub import try_to_load_from_cache

    from automerge.checkpoints import resolve, sampled_digest

    repository = model.reference.partition("@")[0]
    for name in ("config.json", "adapter_config.json"):
        cached = try_to_load_from_cache(repository, name, revision=model.revision)
        if isinstance(cached, str) and sampled_digest(Path(cached).parent) == model.sample:
            return Path(cached).parent
    return resolve(model.pinned).path
